"""Engines in processes of their own, on the tiny policy: several answer as one does, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from eval.run import main
from orchestrator import ledger
from tests.eval.test_run import answered, by_hand, settings_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
WAIT_S = 240


def start(settings: Path, out: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "eval.run", *by_hand(settings, out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


def wait(child: subprocess.Popen[bytes], condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert child.poll() is None, f"the evaluation ended before {what}"
        assert time.monotonic() < deadline, f"{what}: not within {WAIT_S} s"
        time.sleep(0.02)
    return found


def lines(out: Path) -> int:
    file = out / "eval/before/scenes/samples.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def engines(child: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes of the engines, which Ray names after their class and what they do."""
    found = []
    for process in psutil.Process(child.pid).children(recursive=True):
        try:
            if any("ray::EngineActor" in word for word in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue  # it ended while we looked
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path, problems: Path) -> list[dict[str, Any]]:
    """What one engine in one process answers."""
    folder = tmp_path_factory.mktemp("whole")
    given = {"models": {"before": str(model)}, "max_new_tokens": 150, "batch": 1}
    assert main(by_hand(settings_file(folder, model, problems, **given), folder / "out")) == 0
    return answered(folder / "out")


def test_two_engines_one_of_them_killed_and_a_killed_driver_answer_as_one_undisturbed(
    tmp_path: Path, model: Path, problems: Path, whole: list[dict[str, Any]]
) -> None:
    given = {"models": {"before": str(model)}, "max_new_tokens": 150, "batch": 1, "workers": 2}
    settings, out = settings_file(tmp_path, model, problems, **given), tmp_path / "out"

    first = start(settings, out)
    wait(first, lambda: lines(out) >= 2, "two answers")
    first.kill()
    first.wait(30)
    before_rerun = lines(out)
    second = start(settings, out)
    wait(second, lambda: lines(out) > before_rerun, "one more answer")
    first_engine, _ = engines(second)
    first_engine.send_signal(signal.SIGKILL)

    assert second.wait(WAIT_S) == 0
    assert 2 <= before_rerun < 12
    assert [event.event for event in ledger.read(out / "ledger.jsonl")] == ["engine_lost", "evaluated"]
    summary = json.loads((out / "eval/before/scenes/summary.json").read_text())
    assert (summary["engine"]["engines"], summary["engine"]["device"]) == (2, "cpu")
    assert answered(out) == whole


def test_two_nodes_answer_as_one_does_and_end_together(
    tmp_path: Path, model: Path, problems: Path, whole: list[dict[str, Any]]
) -> None:
    given = {"models": {"before": str(model)}, "max_new_tokens": 150, "batch": 1}
    settings, out = settings_file(tmp_path, model, problems, **given), tmp_path / "out"

    nodes = [start(settings, out, ORCH_NODES="alpha,beta", ORCH_NODE_RANK=str(rank)) for rank in (0, 1)]

    try:
        assert [node.wait(WAIT_S) for node in nodes] == [0, 0]
    finally:
        for node in nodes:
            node.kill()
    summary = json.loads((out / "eval/before/scenes/summary.json").read_text())
    assert summary["engine"]["engines"] == 2
    assert answered(out) == whole


def test_vllm_answers_as_transformers_does(
    tmp_path: Path, model: Path, problems: Path, whole: list[dict[str, Any]]
) -> None:
    given = {
        "models": {"before": str(model)},
        "max_new_tokens": 150,
        "engine": "vllm",
        "vllm": {"max_num_seqs": 4, "max_prompt_tokens": 512, "kv_cache_gb": 0.25},
    }
    settings, out = settings_file(tmp_path, model, problems, **given), tmp_path / "out"

    child = start(settings, out)

    assert child.wait(WAIT_S) == 0
    assert [row["response"] for row in answered(out)] == [row["response"] for row in whole]
    assert [row["tokens"] for row in answered(out)] == [row["tokens"] for row in whole]


def test_samples_depend_on_their_seeds_and_not_on_the_batch(tmp_path: Path, model: Path, problems: Path) -> None:
    found = []
    for name, batch in (("a", 1), ("b", 7)):
        folder = tmp_path / name
        folder.mkdir()
        given = {"models": {"before": str(model)}, "temperature": 1.0, "top_p": 0.9, "n": 2, "seeds": [1, 2]}
        assert main(by_hand(settings_file(folder, model, problems, batch=batch, **given), folder / "out")) == 0
        found.append(answered(folder / "out"))

    assert found[0] == found[1]
    assert len(found[0]) == 48
    assert len({row["response"] for row in found[0]}) > 24
    summary = json.loads((tmp_path / "a/out/eval/before/scenes/summary.json").read_text())
    assert (summary["n"], summary["answers"], list(summary["pass_at_k"])) == (12, 48, ["1", "2", "4"])
