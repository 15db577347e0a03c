from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import processes
from orchestrator.allocation import step
from orchestrator.run_directory import RunDirectory
from tests.orchestrator.allocation.runs import wait_for

SLEEPS = "import sys, time; print('up', flush=True); time.sleep(60)"
DRAINS = "import signal, sys, time; signal.signal(12, lambda *_: sys.exit(75)); print('up', flush=True); time.sleep(60)"


def start(
    run: RunDirectory, code: str, *, rank: int = 0, generation: int = 1, number: int = 0
) -> subprocess.Popen[bytes]:
    run.create()
    run.attempt(generation).mkdir(exist_ok=True)
    return subprocess.Popen(
        [
            *[sys.executable, "-m", "orchestrator.allocation.step", f"--run-dir={run.path}", "--role=train"],
            *["--replica=0", f"--start={number}", f"--generation={generation}", "--drain-s=5"],
            f"--log={run.attempt(generation) / 'train.log'}",
            *["--", sys.executable, "-c", code],
        ],
        env=os.environ | {"SLURM_PROCID": str(rank), "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2"},
    )


def record(run: RunDirectory, rank: int = 0, generation: int = 1, number: int = 0) -> step.Record | None:
    return step.read(run, "train", 0, rank, generation=generation, start=number)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def is_up(run: RunDirectory, log: str = "train.log") -> None:
    path = run.attempt(1) / log
    wait_for(lambda: path.exists() and "up" in path.read_text(), f"'up' in {log}")


def test_a_task_records_where_it_runs_and_how_it_ended(run: RunDirectory) -> None:
    assert start(run, "raise SystemExit(7)").wait(10) == 7
    found = record(run)
    assert found is not None
    assert (found.exit_code, found.step, found.host, found.superseded) == (7, "7.2", os.uname().nodename, False)


def test_a_record_of_another_start_is_not_taken_for_this_one(run: RunDirectory) -> None:
    start(run, "pass", number=1).wait(10)
    assert record(run, number=1) is not None
    assert record(run, number=2) is None
    assert record(run, generation=2, number=1) is None


def test_death_by_a_signal_is_told_as_shells_tell_it_and_recorded_exactly(run: RunDirectory) -> None:
    assert start(run, "import os; os.kill(os.getpid(), 11)").wait(10) == 139
    assert record(run).exit_code == -signal.SIGSEGV  # type: ignore[union-attr]


def test_every_node_has_a_log_of_its_own_and_knows_its_rank(run: RunDirectory) -> None:
    start(run, "import os; print('rank', os.environ['ORCH_NODE_RANK'])", rank=2).wait(10)
    assert (run.attempt(1) / "train-node2.log").read_text() == "rank 2\n"


def test_a_node_that_drained_does_not_look_failed_unless_it_is_the_first(run: RunDirectory) -> None:
    for rank, expected in ((0, 75), (1, 0)):
        task = start(run, DRAINS, rank=rank)
        is_up(run, "train.log" if rank == 0 else "train-node1.log")
        task.send_signal(signal.SIGUSR2)
        assert task.wait(10) == expected
        assert record(run, rank=rank).exit_code == 75  # type: ignore[union-attr]


def test_a_signal_of_slurm_is_recorded_and_one_of_ours_is_not(run: RunDirectory) -> None:
    task = start(run, SLEEPS)
    is_up(run)
    task.send_signal(signal.SIGTERM)
    assert task.wait(10) == 128 + signal.SIGTERM
    assert record(run).signal == "SIGTERM"  # type: ignore[union-attr]
    task = start(run, DRAINS, number=1)
    wait_for(lambda: (run.attempt(1) / "train.log").read_text().count("up") == 2, "the second start")
    task.send_signal(signal.SIGUSR2)
    assert task.wait(10) == 75
    assert record(run, number=1).signal == ""  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_newer_attempt_ends_the_task_and_keeps_the_record(run: RunDirectory) -> None:
    task = start(run, "import signal; signal.signal(15, signal.SIG_IGN);" + SLEEPS)
    is_up(run)
    before = record(run)
    assert before is not None
    run.attempt(2).mkdir()
    assert task.wait(15) == step.SUPERSEDED
    assert not processes.alive(before.pid, before.began)
    assert record(run) == before
    assert "attempt 2 has begun" in (run.attempt(1) / "train.log").read_text()
