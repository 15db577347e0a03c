"""The local executor with a real, detached supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from submitit.local.local import LocalJob

from orchestrator import control, plan, processes
from orchestrator.errors import ConflictError
from orchestrator.executors import local
from orchestrator.files import read_json
from orchestrator.run_directory import RunDirectory
from tests.orchestrator.allocation.runs import CHECKOUT, batch, events, make_run, processes_of, wait_for

SUBMIT = """
import sys
from pathlib import Path
from orchestrator import plan
from orchestrator.executors import local
from orchestrator.run_directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
local.start(run, plan.load(run.plan))
"""


def ended(run: RunDirectory) -> str:
    return str(wait_for(lambda: control.state(run).ended and control.state(run).state, "the end", 30.0))


def test_a_run_outlives_the_process_that_submitted_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train", settings={"sleep_s": 1}))

    command = [sys.executable, "-W", "always", "-c", SUBMIT, str(run.path)]
    talk = subprocess.run(command, cwd=CHECKOUT, check=True, timeout=30, stderr=subprocess.PIPE, text=True).stderr
    submitted = control.state(run)

    assert "still running" not in talk
    assert submitted.state in ("SUBMITTED", "RUNNING")
    assert submitted.pid is not None
    assert os.getsid(submitted.pid) == submitted.pid
    assert ended(run) == "SUCCEEDED"


def test_run_json_says_who_runs_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train", settings={"sleep_s": 1}))

    record = local.start(run, plan.load(run.plan))

    assert record == read_json(run.run)
    assert record["executor"] == "local"
    assert record["job_id"] == "1"
    assert processes.alive(record["pid"], record["start_time"])
    assert ended(run) == "SUCCEEDED"
    assert events(run, "attempt_started")[0].fields["pid"] == record["pid"]


def test_submitit_keeps_the_callable_the_log_and_the_result_in_its_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train"))

    record = local.start(run, plan.load(run.plan))

    folder = run.path / "submitit"
    wait_for((folder / "1_0_result.pkl").exists, "submitit's result")
    assert sorted(path.name for path in folder.iterdir()) == ["1_0_log.out", "1_0_result.pkl", "1_submitted.pkl"]
    assert LocalJob(folder, record["job_id"]).result() == 0
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}


def test_a_run_that_is_alive_is_not_started_again(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train", settings={"sleep_s": 60}))
    record = local.start(run, plan.load(run.plan))
    wait_for(lambda: (run.path / "train.starts").exists(), "the trainer")

    with pytest.raises(ConflictError, match=rf"run: run is running already \(pid {record['pid']} on"):
        local.start(run, plan.load(run.plan))

    os.kill(record["pid"], signal.SIGTERM)
    assert ended(run) == "DRAINED"


def test_a_cancelled_run_can_be_resumed(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("tiny"), batch("train", after=("tiny",), settings={"sleep_s": 60, "times": 1}))
    local.start(run, plan.load(run.plan))
    wait_for(lambda: (run.path / "train.starts").exists(), "the trainer")
    control.cancel(run, "a test")
    assert ended(run) == "CANCELLED"
    wait_for(lambda: control.live_process(run) is None, "the supervisor's end")

    assert local.start(run, plan.load(run.plan))["attempt"] == 2

    assert ended(run) == "SUCCEEDED"
    assert len((run.path / "tiny.starts").read_text().splitlines()) == 1


def test_a_terminated_supervisor_drains(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train", settings={"sleep_s": 60}))
    record = local.start(run, plan.load(run.plan))
    wait_for(lambda: (run.path / "train.starts").exists(), "the trainer")

    os.kill(record["pid"], signal.SIGTERM)

    assert ended(run) == "DRAINED"
    assert processes_of(run) == []
