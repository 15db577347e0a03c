from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import processes
from orchestrator.allocation import sweep
from orchestrator.ledger import Ledger
from orchestrator.run_directory import RunDirectory

SLEEP = "import time; time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}], env={{}})"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.create()
    return made


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for process in made:
        for child in processes.descendants(process.pid):
            processes.kill([child])
        process.kill()
        process.wait()


def spawn(started: list[subprocess.Popen[bytes]], code: str, **environment: str) -> processes.Process:
    child = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)
    started.append(child)
    found = processes.find(child.pid)
    assert found is not None
    return found


def record(run: RunDirectory, pid: int, start: float) -> None:
    Ledger(run.ledger, 1).append("role_started", role="train", replica=0, pid=pid, start=round(start, 2))


def pids(run: RunDirectory) -> set[int]:
    return {process.pid for process in sweep.leftovers(run)}


def test_a_process_with_the_runs_environment_is_left_over(
    run: RunDirectory, started: list[subprocess.Popen[bytes]]
) -> None:
    child = spawn(started, SLEEP, ORCH_RUN_DIR=str(run.path))
    spawn(started, SLEEP, ORCH_RUN_DIR=f"{run.path}-2")
    assert pids(run) == {child.pid}
    assert sweep.sweep(run) == []
    assert not processes.alive(child.pid, child.start)


def test_who_shares_the_session_of_a_living_role_is_left_over(
    run: RunDirectory, started: list[subprocess.Popen[bytes]]
) -> None:
    role = spawn(started, PARENT)
    record(run, role.pid, role.start)
    while not (children := processes.descendants(role.pid)):
        pass
    assert pids(run) == {role.pid, children[0].pid}


def test_a_stranger_with_the_pid_of_an_old_role_is_spared(
    run: RunDirectory, started: list[subprocess.Popen[bytes]]
) -> None:
    stranger = spawn(started, SLEEP)
    record(run, stranger.pid, stranger.start - 1000)
    assert pids(run) == set()
