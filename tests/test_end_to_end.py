"""The main job: the shipped tiny recipe with the shipped seed, from submit to report."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from eval.significance import mcnemar_exact
from jobs.grpo import checkpoint
from orchestrator import control
from orchestrator.files import read_json
from orchestrator.run_directory import RunDirectory
from tests import demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
TASK = "geometry3k"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    runs = tmp_path_factory.mktemp("runs")
    done = demo.orchestrator("submit", demo.RECIPE, "--follow", runs=runs, timeout_s=1400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return RunDirectory(runs / "geo3k-tiny")


def test_it_succeeds_and_leaves_no_process(run: RunDirectory) -> None:
    assert control.state(run).state == "SUCCEEDED"
    assert demo.processes_of(run) == []


def test_the_judge_was_measured_and_is_good_enough(run: RunDirectory) -> None:
    outputs = read_json(run.outputs / "tiny.json")
    assert outputs is not None

    quality = read_json(Path(outputs["judge"]) / "judge.json")

    assert quality is not None
    assert quality["balanced_accuracy"] >= 0.90


def test_every_planned_step_is_committed_and_verifies(run: RunDirectory) -> None:
    steps = [line["step"] for line in demo.lines(run.metrics)]

    found = checkpoint.newest(run.checkpoints)

    assert found is not None
    assert steps == list(range(1, found.state.step + 1))
    assert demo.committed(run)[-1] == found.state.step


def test_accuracy_rises_significantly_and_perception_rises_too(run: RunDirectory) -> None:
    before = {line["id"]: line for line in demo.lines(run.eval / "before" / TASK / "samples.jsonl")}
    after = {line["id"]: line for line in demo.lines(run.eval / "after" / TASK / "samples.jsonl")}
    assert before.keys() == after.keys()
    lost = sum(before[k]["correct"] and not after[k]["correct"] for k in before)
    won = sum(after[k]["correct"] and not before[k]["correct"] for k in before)

    p = mcnemar_exact(lost, won)

    assert won > lost
    assert p < 0.05
    assert perception(list(after.values())) > perception(list(before.values()))


def perception(samples: list[dict]) -> float:  # type: ignore[type-arg]
    values = [s["parts"]["visual_perception"] for s in samples if s["parts"].get("visual_perception") is not None]
    assert len(values) > 0.9 * len(samples)
    return sum(values) / len(values)


def test_the_report_is_one_offline_file_with_the_mcnemar_line(run: RunDirectory) -> None:
    page = run.report.read_text(encoding="utf-8")

    assert "McNemar" in page
    assert not re.search(r"""(src|href)=["']?https?:""", page)


def test_every_rollout_has_all_rewards_and_a_verdict(run: RunDirectory) -> None:
    rollouts = demo.lines(run.rollouts)

    assert {tuple(sorted(r["rewards"])) for r in rollouts} == {
        ("accuracy", "format", "repetition", "visual_perception")
    }
    missing = [r for r in rollouts if r["judge"]["missing"]]
    assert len(missing) <= 0.01 * len(rollouts)
    assert all(r["total"] is None for r in missing)


def test_tensorboard_reads_the_run(run: RunDirectory) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.tensorboard)).Reload()

    assert "critic/score/mean" in events.Tags()["scalars"]


def test_keys_are_private_and_nowhere_else(run: RunDirectory) -> None:
    keys = [path.read_text().strip().encode() for path in run.secrets.iterdir()]
    assert keys
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in run.secrets.iterdir())

    others = [p for p in run.path.rglob("*") if p.is_file() and not p.is_symlink() and p.parent != run.secrets]
    leaks = [str(path) for path in others if any(key in path.read_bytes() for key in keys)]

    assert leaks == []
