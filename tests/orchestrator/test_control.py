from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator import control, processes
from orchestrator.errors import ConflictError
from orchestrator.files import read_json, write_json
from orchestrator.ledger import Ledger
from orchestrator.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.create()
    return made


def submit(run: RunDirectory, attempt: int, *, pid: int | None = None) -> None:
    me = processes.find(os.getpid())
    assert me is not None
    record: dict[str, Any] = {"pid": pid or me.pid, "start_time": me.start, "host": socket.gethostname()}
    write_json(run.run, record | {"executor": "local", "job_id": str(attempt), "attempt": attempt})


def owner(run: RunDirectory, **changes: Any) -> None:
    control.own(run, 1)
    write_json(run.control / "supervisor.json", read_json(run.control / "supervisor.json") | changes)


def begin(run: RunDirectory, attempt: int = 1) -> Ledger:
    ledger = Ledger(run.ledger, attempt)
    ledger.append("attempt_started", attempt=attempt, pid=os.getpid(), host=socket.gethostname())
    return ledger


def test_a_run_that_was_only_made_is_new(run: RunDirectory) -> None:
    Ledger(run.ledger, 0).append("submitted")
    assert control.state(run).state == "NEW"


def test_a_run_whose_supervisor_has_not_begun_is_submitted(run: RunDirectory) -> None:
    submit(run, 1)
    assert control.state(run).state == "SUBMITTED"
    assert control.state(run).pid == os.getpid()


def test_a_run_with_a_live_supervisor_is_running(run: RunDirectory) -> None:
    submit(run, 1)
    begin(run)
    control.own(run, 1)
    now = control.state(run)
    assert (now.state, now.attempt, now.pid, now.ended) == ("RUNNING", 1, os.getpid(), False)


def test_a_run_whose_supervisor_is_gone_is_lost(run: RunDirectory) -> None:
    begin(run)
    owner(run, start=1.0)
    now = control.state(run)
    assert (now.state, now.exit_code, now.pid) == ("LOST", 1, None)


def test_a_supervisor_elsewhere_lives_as_long_as_its_lease(run: RunDirectory) -> None:
    begin(run)
    owner(run, host="elsewhere", pid=1)
    assert control.state(run).state == "RUNNING"
    owner(run, host="elsewhere", pid=1, lease_until=time.time() - 1)
    assert control.state(run).state == "LOST"


@pytest.mark.parametrize(
    ("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELLED", 5), ("CRASH_LOOP", 6), ("DRAINED", 75)]
)
def test_a_finished_run_is_what_its_last_event_says(run: RunDirectory, state: str, code: int) -> None:
    begin(run).append("run_finished", state=state, cause="why", diagnosis="where")
    now = control.state(run)
    assert (now.state, now.exit_code, now.cause, now.diagnosis) == (state, code, "why", "where")


def test_a_resumed_run_is_no_longer_what_it_ended_as(run: RunDirectory) -> None:
    begin(run, 1).append("run_finished", state="DRAINED", cause="", diagnosis="")
    submit(run, 2)
    assert control.state(run).state == "SUBMITTED"
    begin(run, 2)
    control.own(run, 2)
    assert (control.state(run).state, control.state(run).attempt) == ("RUNNING", 2)


def test_cancelling_leaves_a_request_for_the_supervisor(run: RunDirectory) -> None:
    begin(run)
    control.own(run, 1)
    control.cancel(run, "a test")
    assert read_json(control.cancel_file(run))["by"] == "a test"


def test_a_run_that_has_ended_cannot_be_cancelled(run: RunDirectory) -> None:
    begin(run).append("run_finished", state="SUCCEEDED", cause="", diagnosis="")
    with pytest.raises(ConflictError, match="run is SUCCEEDED, so there is nothing to cancel"):
        control.cancel(run, "a test")


def queued(run: RunDirectory, job: str | None = "11", attempt: int = 1) -> None:
    """Pose as a submission to Slurm; without a job, as one that was interrupted."""
    record = {"executor": "slurm", "comment": "orch:run:1", "attempt": attempt}
    write_json(run.run, record if job is None else record | {"job_id": job})


def elsewhere(run: RunDirectory, generation: int, job: str, *, alive: bool) -> None:
    """Pose as the supervisor in a job on another node."""
    control.own(run, generation, job)
    lease_until = time.time() + (30 if alive else -1)
    # Pid 1 lives on this machine too; it must not be asked about.
    record = read_json(run.control / "supervisor.json") | {"host": "n7", "pid": 1, "lease_until": lease_until}
    write_json(run.control / "supervisor.json", record)


def attempt(run: RunDirectory, number: int, job: str, *, alive: bool = True) -> Ledger:
    elsewhere(run, number, job, alive=alive)
    ledger = Ledger(run.ledger, number)
    ledger.append("attempt_started", attempt=number, pid=1, host="n7", job_id=job)
    return ledger


def test_a_job_in_the_queue_is_submitted(run: RunDirectory) -> None:
    queued(run)

    now = control.state(run)

    assert (now.state, now.attempt, now.executor, now.job, now.pid) == ("SUBMITTED", 0, "slurm", "11", None)


def test_an_interrupted_submission_is_submitted_with_an_unknown_job(run: RunDirectory) -> None:
    queued(run, None)
    assert (control.state(run).state, control.state(run).job) == ("SUBMITTED", "")


def test_a_job_whose_supervisor_renews_its_lease_is_running(run: RunDirectory) -> None:
    queued(run)
    attempt(run, 1, "11").append("successor_queued", job_id="12", after="11")

    now = control.state(run)

    assert (now.state, now.job, now.host) == ("RUNNING", "11", "n7")


def test_a_drained_attempt_with_a_job_behind_it_is_queued(run: RunDirectory) -> None:
    queued(run)
    ledger = attempt(run, 1, "11")
    ledger.append("successor_queued", job_id="12", after="11")
    ledger.append("run_finished", state="DRAINED", kind="preempted", cause="", diagnosis="")

    now = control.state(run)

    assert (now.state, now.job, now.ended) == ("QUEUED", "12", False)


def test_a_lost_attempt_with_a_job_behind_it_is_queued(run: RunDirectory) -> None:
    queued(run)
    attempt(run, 1, "11", alive=False).append("successor_queued", job_id="12", after="11")
    assert (control.state(run).state, control.state(run).job) == ("QUEUED", "12")


def test_a_lost_attempt_with_nothing_behind_it_is_lost(run: RunDirectory) -> None:
    queued(run)
    attempt(run, 1, "11", alive=False)
    assert (control.state(run).state, control.state(run).executor) == ("LOST", "slurm")


def test_a_successor_that_has_begun_or_is_cancelled_is_not_waited_for(run: RunDirectory) -> None:
    queued(run)
    ledger = attempt(run, 1, "11")
    ledger.append("successor_queued", job_id="12", after="11")
    ledger.append("run_finished", state="DRAINED", kind="preempted", cause="", diagnosis="")
    ledger = attempt(run, 2, "12")
    assert control.state(run).state == "RUNNING"

    ledger.append("successor_queued", job_id="13", after="12")
    ledger.append("successor_cancelled", job_id="13")
    ledger.append("run_finished", state="DRAINED", kind="drained", cause="", diagnosis="")
    assert control.state(run).state == "DRAINED"


def test_a_run_that_has_ended_for_good_has_ended_whatever_still_waits(run: RunDirectory) -> None:
    queued(run)
    ledger = attempt(run, 1, "11")
    ledger.append("successor_queued", job_id="12", after="11")
    ledger.append("run_finished", state="SUCCEEDED", kind="done", cause="", diagnosis="")
    assert control.state(run).state == "SUCCEEDED"


def test_a_run_that_is_submitted_again_waits_for_its_new_job(run: RunDirectory) -> None:
    attempt(run, 1, "11").append("run_finished", state="FAILED", kind="crash", cause="", diagnosis="")
    queued(run, "20", attempt=2)
    assert (control.state(run).state, control.state(run).job) == ("SUBMITTED", "20")


def test_a_run_whose_script_was_submitted_by_hand_is_known_as_slurms(run: RunDirectory) -> None:
    attempt(run, 1, "11")
    assert (control.state(run).state, control.state(run).executor) == ("RUNNING", "slurm")


def test_a_waiting_run_is_cancelled_in_slurm_and_in_the_ledger(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scancel = tmp_path / "scancel"
    scancel.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/cancelled\n')
    scancel.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    queued(run)
    attempt(run, 1, "11", alive=False).append("successor_queued", job_id="12", after="11")

    control.cancel(run, "a test")

    # The job of the attempt that was cut off as well: its node may still run it.
    assert (tmp_path / "cancelled").read_text() == "12 11\n"
    now = control.state(run)
    assert (now.state, now.cause) == ("CANCELLED", "Cancelled by a test while it waited in Slurm.")
