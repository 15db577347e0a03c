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
