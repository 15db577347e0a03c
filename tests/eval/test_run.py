from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval import record
from eval.run import evaluate, main
from eval.settings import Settings
from jobs import entry
from jobs.entry import DRAINED, Drain
from orchestrator.run_directory import RunDirectory
from tests.jobs.rewards.fake_judge import FakeJudge, says, status

pytestmark = pytest.mark.slow


def settings_file(folder: Path, model: Path, problems: Path, **more: Any) -> Path:
    path = folder / "eval.yaml"
    values = {
        "models": {"after": str(model), "before": str(model)},
        "tasks": {"scenes": {"path": str(problems)}},
        "max_new_tokens": 8,
        "batch": 5,
        **more,
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def by_hand(settings: Path, out: Path) -> list[str]:
    return ["--settings", str(settings), "--out", str(out)]


def answered(out: Path, label: str = "before") -> list[dict[str, Any]]:
    rows = [dict(row) for _, row in record.json_lines(out / "eval" / label / "scenes" / "samples.jsonl")]
    return [{key: value for key, value in row.items() if key != "batch_s"} for row in rows]


class DrainAfter(Drain):
    """Asks to stop once ``lines`` answers are on disk."""

    def __init__(self, path: Path, lines: int) -> None:
        self._path = path
        self._lines = lines

    @property
    def requested(self) -> bool:
        return self._path.exists() and self._path.read_bytes().count(b"\n") >= self._lines

    @requested.setter
    def requested(self, value: bool) -> None:
        raise AssertionError(f"Nobody sends a signal here, got {value}.")


def test_every_model_answers_every_problem(tmp_path: Path, model: Path, problems: Path) -> None:
    out = tmp_path / "out"

    assert main(by_hand(settings_file(tmp_path, model, problems), out)) == 0

    rows, summary = answered(out), json.loads((out / "eval/before/scenes/summary.json").read_text())
    assert len({row["id"] for row in rows}) == len(rows) == summary["n"] == 12
    assert rows == answered(out, "after")
    assert set(rows[0]["parts"]) == {"accuracy", "format", "repetition"}
    assert all((out / name).is_file() for row in rows for name in row["images"])
    assert summary["correct"] == sum(row["correct"] for row in rows)
    assert summary["parts"]["format"] == {"mean": 0.0, "n": 12, "missing": 0}
    assert len(summary["model_sha256"]) == 64
    assert json.loads((out / "outputs/eval.json").read_text()) == {"folder": str(out / "eval")}
    assert not any("image_pad" in row["response"] for row in rows)


def test_a_drained_evaluation_goes_on_where_it_was(tmp_path: Path, model: Path, problems: Path) -> None:
    settings = settings_file(tmp_path, model, problems, models={"before": str(model)}, max_new_tokens=96, batch=2)
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    main(by_hand(settings, whole))
    context, given = entry.start("eval", Settings, by_hand(settings, halted))

    first = asyncio.run(evaluate(context, given, DrainAfter(halted / "eval/before/scenes/samples.jsonl", 2)))
    after_first, published = answered(halted), (halted / "outputs/eval.json").exists()
    again = main(by_hand(settings, halted))

    assert (first, published, again) == (DRAINED, False, 0)
    assert 2 <= len(after_first) < 12
    assert answered(halted) == answered(whole)


def test_a_killed_evaluation_answers_nothing_twice(tmp_path: Path, model: Path, problems: Path) -> None:
    settings = settings_file(tmp_path, model, problems, models={"before": str(model)}, max_new_tokens=96, batch=2)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    main(by_hand(settings, whole))
    samples = killed / "eval/before/scenes/samples.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-m", "eval.run", *by_hand(settings, killed)], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not (samples.exists() and samples.read_bytes().count(b"\n") >= 2):
        assert child.poll() is None, "the evaluation ended before it could be killed"
        assert time.monotonic() < deadline, "no batch was written within 120 s"
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=30)
    before_rerun = answered(killed)
    with samples.open("a") as file:
        file.write('{"id": "torn')

    assert main(by_hand(settings, killed)) == 0

    assert 2 <= len(before_rerun) < 12
    assert [row["id"] for row in answered(killed)] == [row["id"] for row in answered(whole)]
    assert answered(killed) == answered(whole)


def test_sigterm_ends_with_75_and_what_was_answered_is_kept(tmp_path: Path, model: Path, problems: Path) -> None:
    settings = settings_file(tmp_path, model, problems, models={"before": str(model)}, max_new_tokens=400, batch=1)
    samples = tmp_path / "out/eval/before/scenes/samples.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-m", "eval.run", *by_hand(settings, tmp_path / "out")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not (samples.exists() and samples.read_bytes()):
        assert time.monotonic() < deadline, "no batch was written within 120 s"
        time.sleep(0.005)

    child.terminate()

    assert child.wait(timeout=30) == DRAINED
    assert 1 <= len(answered(tmp_path / "out")) < 12
    assert not (samples.parent / "summary.json").exists()


def test_a_finished_evaluation_is_not_done_again(tmp_path: Path, model: Path, problems: Path) -> None:
    settings = settings_file(tmp_path, model, problems)
    main(by_hand(settings, tmp_path / "out"))
    samples = tmp_path / "out/eval/before/scenes/samples.jsonl"
    then = samples.stat().st_mtime_ns

    assert main(by_hand(settings, tmp_path / "out")) == 0

    assert samples.stat().st_mtime_ns == then


def test_answers_of_other_settings_are_not_mixed_in(
    tmp_path: Path, model: Path, problems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(by_hand(settings_file(tmp_path, model, problems), tmp_path / "out"))

    code = main(by_hand(settings_file(tmp_path, model, problems, max_new_tokens=9), tmp_path / "out"))

    assert code == 3
    assert "This evaluation was begun with another max_new_tokens." in capsys.readouterr().err


def test_the_judge_reads_what_the_models_see(tmp_path: Path, model: Path, problems: Path) -> None:
    settings = settings_file(tmp_path, model, problems, models={"after": str(model)}, judge="judge")
    context, given = entry.start("eval", Settings, by_hand(settings, tmp_path / "out"))

    async def judged() -> int:
        async with FakeJudge(context.run, says("<info1>1</info1><info2>0</info2><info3>1</info3>")):
            return await evaluate(context, given, Drain())

    assert asyncio.run(judged()) == 0

    rows = answered(tmp_path / "out", "after")
    summary = json.loads((tmp_path / "out/eval/after/scenes/summary.json").read_text())
    assert all(0 < row["parts"]["visual_perception"] <= 1 for row in rows)
    assert rows[0]["judge"]["reply"].startswith("<info1>1")
    assert summary["parts"]["visual_perception"]["n"] == 12
    assert summary["judge"]


def test_a_judge_that_fails_leaves_its_part_missing(tmp_path: Path, model: Path, problems: Path) -> None:
    settings = settings_file(tmp_path, model, problems, models={"after": str(model)}, judge="judge")
    context, given = entry.start("eval", Settings, by_hand(settings, tmp_path / "out"))

    async def judged() -> int:
        async with FakeJudge(context.run, status(400)):
            return await evaluate(context, given, Drain())

    assert asyncio.run(judged()) == 0

    summary = json.loads((tmp_path / "out/eval/after/scenes/summary.json").read_text())
    assert summary["parts"]["visual_perception"] == {"mean": None, "n": 0, "missing": 12}
    assert summary["parts"]["accuracy"]["n"] == 12


def test_the_report_of_an_evaluation_has_the_test(tmp_path: Path, model: Path, problems: Path) -> None:
    from eval import report

    main(by_hand(settings_file(tmp_path, model, problems), tmp_path / "out"))

    assert "McNemar exact test: b=0, c=0, p=1.00." in report.build(RunDirectory(tmp_path / "out"))
