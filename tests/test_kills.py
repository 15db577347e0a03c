"""``kill -9`` of any single process of a real run: a restarted role or a named end, never a hang."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from orchestrator import control
from orchestrator.run_directory import RunDirectory
from tests import demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
STEPS = 24
SMALL = (
    f"train.steps={STEPS}",
    "train.checkpoint.every_steps=2",
    "eval.tasks.geometry3k.limit=32",
    "judge.on_failure={restart: 5, backoff_s: 1}",
    "train.on_failure={restart: 5, backoff_s: 1}",
)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def wait_for_steps(run: RunDirectory, more: int) -> None:
    """Wait until ``more`` further checkpoints are committed: the run goes on."""
    known = len(demo.committed(run))
    demo.wait_until(f"checkpoint {known + more}", lambda: len(demo.committed(run)) >= known + more, run, within_s=240)


def restarts(run: RunDirectory, role: str) -> int:
    return sum(event.fields["role"] == role for event in demo.events(run, "role_restarting"))


def test_a_run_survives_the_death_of_each_of_its_processes(tmp_path: Path) -> None:
    done = demo.orchestrator("submit", demo.RECIPE, *SMALL, runs=tmp_path, timeout_s=60)
    assert done.returncode == 0, done.stderr
    run = RunDirectory(tmp_path / "geo3k-tiny")
    try:
        survive(run, tmp_path)
    finally:
        if not control.state(run).ended:
            demo.orchestrator("cancel", run.name, runs=tmp_path, timeout_s=120)
    assert demo.processes_of(run) == []


def survive(run: RunDirectory, runs: Path) -> None:
    demo.wait_until("the first checkpoint", lambda: bool(demo.committed(run)), run, within_s=500)

    kill(demo.titled(run, "ray::EngineActor"))
    demo.wait_until("restart of train", lambda: restarts(run, "train") == 1, run, within_s=90)
    wait_for_steps(run, 1)

    kill(demo.role_pid(run, "train"))
    demo.wait_until("restart of train", lambda: restarts(run, "train") == 2, run, within_s=60)
    wait_for_steps(run, 1)

    gateway = demo.running("orchestrator.allocation.gateway", run)
    kill(gateway)
    demo.wait_until("restart of the gateway", lambda: bool(demo.events(run, "gateway_restarted")), run, within_s=30)

    kill(demo.role_pid(run, "judge"))
    demo.wait_until("restart of judge", lambda: restarts(run, "judge") == 1, run, within_s=60)
    wait_for_steps(run, 1)
    assert restarts(run, "train") == 2, "the judge's death does not restart training"

    owner = control.newest_owner(run)
    assert owner is not None
    kill(owner.pid)
    demo.wait_until("the end of all processes", lambda: not demo.processes_of(run), run, within_s=90)
    assert control.state(run).state == "LOST"

    before = max(demo.committed(run))
    resumed = demo.orchestrator("resume", run.name, "--follow", runs=runs, timeout_s=500)
    assert resumed.returncode == 0, resumed.stdout[-3000:] + resumed.stderr[-3000:]
    assert control.state(run).state == "SUCCEEDED"
    assert demo.events(run, "resumed")[-1].fields["step"] == before
    assert [line["step"] for line in demo.lines(run.metrics)] == list(range(1, STEPS + 1))
    rollouts = [(r["step"], r["id"], r["sample"]) for r in demo.lines(run.rollouts)]
    assert len(rollouts) == len(set(rollouts)) == STEPS * 64


def test_cancel_drains_with_a_checkpoint_and_leaves_nothing(tmp_path: Path) -> None:
    done = demo.orchestrator(
        "submit", demo.RECIPE, *SMALL, "train.checkpoint.every_steps=99", runs=tmp_path, timeout_s=60
    )
    assert done.returncode == 0, done.stderr
    run = RunDirectory(tmp_path / "geo3k-tiny")
    demo.wait_until("step 2", lambda: run.metrics.exists() and len(demo.lines(run.metrics)) >= 2, run, within_s=500)

    cancelled = demo.orchestrator("cancel", run.name, runs=tmp_path, timeout_s=120)

    assert cancelled.returncode == 0, cancelled.stderr
    demo.wait_until("the end", lambda: control.state(run).ended, run, within_s=120)
    assert control.state(run).state == "CANCELLED"
    assert demo.committed(run)[-1] >= 2
    assert demo.processes_of(run) == []
