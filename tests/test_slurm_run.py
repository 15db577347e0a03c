"""The main job on a real Slurm of several nodes: vLLM on one, Ray over two others, taken away again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.sandbox import Options, Sandbox
from orchestrator.run_directory import RunDirectory
from tests import demo
from tests.slurm_runs import Cluster, Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
STEPS = 16
SMALL = (
    "placement=hetjob",
    f"train.steps={STEPS}",
    "train.checkpoint.every_steps=4",
    "eval.tasks.geometry3k.limit=32",
    "train.drain_s=25",
)
LONG_S = 600.0


def test_every_planned_step_is_committed_exactly_once_whatever_happens(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "slurm", Options(grace_s=30)) as sandbox:
        cluster = Cluster(sandbox, tmp_path)
        done = cluster.verb("submit", demo.RECIPE, "--cluster", "sandbox", *SMALL, "--parsable")
        assert done.returncode == 0, done.stderr
        job, _, path = done.stdout.strip().partition(";")
        run = Run(cluster, RunDirectory(Path(path)), job)
        harass(run, sandbox)
        run.wait_end(timeout_s=LONG_S)
        run.assert_nothing_left()

    steps = [line["step"] for line in demo.lines(run.directory.metrics)]
    assert steps == list(range(1, STEPS + 1)), run.story()
    rollouts = [(line["step"], line["id"], line["sample"]) for line in demo.lines(run.directory.rollouts)]
    assert len(rollouts) == len(set(rollouts)) == STEPS * 64
    assert run.kinds() == {"preempted": 1, "node_failure": 1, "done": 1}, run.story()
    train = [event for event in run.events("role_started") if event.fields["role"] == "train"]
    assert all(len(event.fields["nodes"]) == 2 for event in train)
    assert run.directory.report.exists()
    secrets = [file.read_text().strip() for file in run.directory.secrets.glob("*.key")]
    assert secrets
    assert not [file for file in readable(run.directory.path) for secret in secrets if secret in file]


def harass(run: Run, sandbox: Sandbox) -> None:
    """Preempt the trainer's node once, and take its node down once."""

    def done() -> int:
        return len(demo.lines(run.directory.metrics)) if run.directory.metrics.exists() else 0

    run.wait_until(lambda: done() >= 3, "three steps", LONG_S)
    sandbox.preempt([run.leader], 3)
    run.wait_attempt(2)
    run.wait_until(lambda: done() >= 8, "eight steps", LONG_S)
    sandbox.node(run.leader).down()
    run.wait_attempt(3)


def readable(folder: Path) -> list[str]:
    """Return what all files of a run hold, the key files left out."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".key"]
    return [path.read_text(encoding="utf-8", errors="replace") for path in files if path.stat().st_size < 1 << 20]
