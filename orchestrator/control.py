"""A run seen and steered from outside its allocation: its state, its supervisor, the wish to cancel.

Everything is read from the run directory; the only other question asked is whether a process of
this host is alive. The state is a fold of the ledger; the process table only tells a run that is
RUNNING from one whose supervisor was killed, which is LOST.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator import ledger, processes
from orchestrator.errors import ConflictError
from orchestrator.files import private_folder, read_json, write_json
from orchestrator.run_directory import RunDirectory

EXIT_CODES = {"SUCCEEDED": 0, "FAILED": 1, "LOST": 1, "CANCELLED": 5, "CRASH_LOOP": 6, "DRAINED": 75}
"""What ``submit --follow`` and the supervisor exit with when a run has ended in a state."""
LEASE_S = 30.0
"""A supervisor of another host that has not renewed its lease for so long is taken for dead."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that supervises a run, or did."""

    pid: int
    start: float
    host: str
    generation: int
    lease_until: float

    @property
    def alive(self) -> bool:
        if self.host == socket.gethostname():
            return processes.alive(self.pid, self.start)
        return time.time() < self.lease_until


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What a run is at.

    Attributes:
        state: SUBMITTED, RUNNING, or one of ``EXIT_CODES``: SUCCEEDED, FAILED, CANCELLED,
            CRASH_LOOP, DRAINED, LOST. NEW for a run that was never submitted.
        attempt: The newest attempt, counted from 1; 0 before the first.
        cause: Why it ended, a sentence; empty while it runs.
        diagnosis: The earliest error of a failed attempt with its place; may span lines.
        pid: The live supervisor on this host or another; None if there is none.
        host: The host of that supervisor, or of the last one.
    """

    state: str
    attempt: int = 0
    cause: str = ""
    diagnosis: str = ""
    pid: int | None = None
    host: str = ""

    @property
    def ended(self) -> bool:
        return self.state in EXIT_CODES

    @property
    def exit_code(self) -> int | None:
        """None while the run has not ended."""
        return EXIT_CODES.get(self.state)


def state(run: RunDirectory) -> RunState:
    """Return the state of a run, folded from its ledger and completed by whether its supervisor lives."""
    events = ledger.read(run.ledger)
    attempt = max((event.generation for event in events), default=0)
    submitted = read_json(run.run)
    owner = newest_owner(run)
    if submitted is not None and _starting(submitted, attempt):
        return RunState(state="SUBMITTED", attempt=attempt, pid=submitted["pid"], host=submitted["host"])
    ends = [event for event in events if event.event == "run_finished" and event.generation == attempt]
    if attempt and ends:
        known = ends[-1].fields
        return RunState(
            state=known["state"],
            attempt=attempt,
            cause=known.get("cause", ""),
            diagnosis=known.get("diagnosis", ""),
            host=owner.host if owner else "",
        )
    if owner is not None and owner.alive:
        return RunState(state="RUNNING", attempt=attempt, pid=owner.pid, host=owner.host)
    if not attempt and submitted is None:
        return RunState(state="NEW")
    return _lost(attempt, owner)


def cancel(run: RunDirectory, by: str) -> None:
    """Ask the run's supervisor to drain and end as CANCELLED. Returns at once; asking twice is harmless.

    Args:
        run: The run.
        by: Who asks, for the ledger: ``"orchestrator cancel"``.

    Raises:
        ConflictError: The run is not running, so there is nothing to cancel.
    """
    now = state(run)
    if now.state not in ("SUBMITTED", "RUNNING"):
        raise ConflictError(f"run: {run.name} is {now.state}, so there is nothing to cancel.")
    private_folder(run.control)
    write_json(cancel_file(run), {"by": by, "at": time.time(), "attempt": now.attempt})


def cancel_file(run: RunDirectory) -> Path:
    """Return the file whose existence asks the supervisor to cancel."""
    return run.control / "cancel.json"


def newest_owner(run: RunDirectory) -> Owner | None:
    """Return who supervises the run or was the last to; ask its ``alive``."""
    record = read_json(run.control / "supervisor.json")
    return Owner(**record) if record is not None else None


def own(run: RunDirectory, generation: int) -> None:
    """Record that this process supervises the run, and renew its lease."""
    me = processes.find(os.getpid())
    assert me is not None
    owner = Owner(
        pid=me.pid,
        start=me.start,
        host=socket.gethostname(),
        generation=generation,
        lease_until=time.time() + LEASE_S,
    )
    write_json(run.control / "supervisor.json", asdict(owner))


def live_process(run: RunDirectory) -> tuple[int, str] | None:
    """Return pid and host of the process that runs or is about to run the supervisor, if it lives."""
    owner = newest_owner(run)
    if owner is not None and owner.alive:
        return owner.pid, owner.host
    submitted = read_json(run.run)
    if submitted is not None and _submission_alive(submitted):
        return submitted["pid"], submitted["host"]
    return None


def _starting(submitted: dict[str, Any], attempt: int) -> bool:
    """Whether a submitted process lives that has not yet begun its attempt."""
    return submitted.get("attempt", 1) > attempt and _submission_alive(submitted)


def _submission_alive(submitted: dict[str, Any]) -> bool:
    pid, start = submitted.get("pid"), submitted.get("start_time")
    if pid is None or start is None or submitted.get("host") != socket.gethostname():
        return False
    return processes.alive(pid, start)


def _lost(attempt: int, owner: Owner | None) -> RunState:
    who = f"The supervisor (pid {owner.pid} on {owner.host})" if owner else "The supervisor"
    return RunState(
        state="LOST",
        attempt=attempt,
        cause=f"{who} ended without a word; it was killed or its machine went down. Continue with `resume`.",
        host=owner.host if owner else "",
    )
