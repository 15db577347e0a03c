"""A run seen and steered from outside its allocation: its state, its supervisor, the wish to cancel.

Everything is read from the run directory; the only other question asked is whether a process of
this host is alive. The state is a fold of the ledger; the process table, or on another node the
lease, only tells a run that is RUNNING from one whose supervisor was killed, which is LOST, or
QUEUED if a job waits in Slurm to take over. To cancel a job that waits is all that is said to Slurm.
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
from orchestrator.ledger import Event
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
    job: str = ""
    """The Slurm job it is the batch script of; empty on one machine."""

    @property
    def alive(self) -> bool:
        if self.host == socket.gethostname():
            return processes.alive(self.pid, self.start)
        return time.time() < self.lease_until


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What a run is at.

    Attributes:
        state: SUBMITTED (started or in Slurm's queue, but not begun), RUNNING, QUEUED (an attempt is over and the
            job of the next one waits in Slurm), or one of ``EXIT_CODES``: SUCCEEDED, FAILED, CANCELLED,
            CRASH_LOOP, DRAINED, LOST. NEW for a run that was never submitted.
        attempt: The newest attempt, counted from 1; 0 before the first.
        cause: Why it ended, a sentence; empty while it runs.
        diagnosis: The earliest error of a failed attempt with its place; may span lines.
        pid: The live supervisor on this host or another; None if there is none.
        host: The host of that supervisor, or of the last one.
        executor: ``local`` or ``slurm``.
        job: The Slurm job that runs or waits, as far as the run's files know; empty if there is none.
    """

    state: str
    attempt: int = 0
    cause: str = ""
    diagnosis: str = ""
    pid: int | None = None
    host: str = ""
    executor: str = "local"
    job: str = ""

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
    host = owner.host if owner else ""
    if submitted is not None and _starting(submitted, attempt):
        return RunState(state="SUBMITTED", attempt=attempt, pid=submitted["pid"], host=submitted["host"])
    executor = _executor(submitted, owner, events)
    ends = {event.generation: event.fields for event in events if event.event == "run_finished"}
    if owner is not None and owner.alive and owner.generation not in ends:
        number = max(attempt, owner.generation)
        return RunState(
            state="RUNNING", attempt=number, pid=owner.pid, host=host, executor=executor, job=owner.job or ""
        )
    asked, successor = _submitted_job(submitted, events), _successor(events)
    if asked is not None:
        return RunState(state="SUBMITTED", attempt=attempt, host=host, executor=executor, job=asked)
    end = ends.get(attempt)
    if successor and (end is None or end["state"] == "DRAINED"):
        return RunState(state="QUEUED", attempt=attempt, host=host, executor=executor, job=successor)
    if end is not None:
        return RunState(
            state=end["state"],
            attempt=attempt,
            cause=end.get("cause", ""),
            diagnosis=end.get("diagnosis", ""),
            host=host,
            executor=executor,
        )
    if not attempt and submitted is None:
        return RunState(state="NEW")
    return _lost(attempt, owner, executor)


def cancel(run: RunDirectory, by: str) -> None:
    """Ask the run's supervisor to drain and end as CANCELLED; a run that waits in Slurm is ended at once.

    Returns at once; asking twice is harmless.

    Args:
        run: The run.
        by: Who asks, for the ledger: ``"orchestrator cancel"``.

    Raises:
        ConflictError: The run is not running, so there is nothing to cancel.
        SchedulerUnavailable: The run waits in Slurm, and Slurm does not answer. A job that starts later
            finds the request and ends by itself.
    """
    now = state(run)
    if now.state not in ("SUBMITTED", "QUEUED", "RUNNING"):
        raise ConflictError(f"run: {run.name} is {now.state}, so there is nothing to cancel.")
    private_folder(run.control)
    write_json(cancel_file(run), {"by": by, "at": time.time(), "attempt": now.attempt})
    if now.executor == "slurm" and now.state != "RUNNING":
        _cancel_jobs(run, now, by)


def _cancel_jobs(run: RunDirectory, now: RunState, by: str) -> None:
    """Cancel every job of a run that has no supervisor, and record its end."""
    from orchestrator.executors import slurm_commands  # brings subprocess along, which only this needs

    owner = newest_owner(run)
    # The job of an attempt that was cut off may still run on a node that Slurm has not given up.
    cut_off = [owner.job] if owner is not None and owner.job and now.state == "QUEUED" else []
    events = ledger.read(run.ledger)
    ended = _jobs(events, "service_job_ended")
    services = [job for job in _jobs(events, "service_job_queued") if job not in ended]
    slurm_commands.cancel([*filter(None, [now.job]), *cut_off, *services])
    journal = ledger.Ledger(run.ledger, now.attempt)
    if now.job:
        journal.append("successor_cancelled" if now.state == "QUEUED" else "submission_cancelled", job_id=now.job)
    cause = f"Cancelled by {by} while it waited in Slurm."
    journal.append("run_finished", state="CANCELLED", kind="cancelled", cause=cause, diagnosis="")


def cancel_file(run: RunDirectory) -> Path:
    """Return the file whose existence asks the supervisor to cancel."""
    return run.control / "cancel.json"


def newest_owner(run: RunDirectory) -> Owner | None:
    """Return who supervises the run or was the last to; ask its ``alive``."""
    record = read_json(run.control / "supervisor.json")
    return Owner(**record) if record is not None else None


def own(run: RunDirectory, generation: int, job: str = "") -> None:
    """Record that this process supervises the run, and renew its lease."""
    me = processes.find(os.getpid())
    assert me is not None
    owner = Owner(
        pid=me.pid,
        start=me.start,
        host=socket.gethostname(),
        generation=generation,
        lease_until=time.time() + LEASE_S,
        job=job,
    )
    write_json(run.control / "supervisor.json", asdict(owner))


def disown(run: RunDirectory, generation: int) -> None:
    """Let the lease run out now: this attempt has ended in good order, and nobody need wait for it."""
    record = read_json(run.control / "supervisor.json")
    if record is not None and record["generation"] == generation:
        write_json(run.control / "supervisor.json", record | {"lease_until": time.time()})


def live_process(run: RunDirectory) -> tuple[int, str] | None:
    """Return pid and host of the process that runs or is about to run the supervisor, if it lives."""
    owner = newest_owner(run)
    if owner is not None and owner.alive:
        return owner.pid, owner.host
    submitted = read_json(run.run)
    if submitted is not None and _submission_alive(submitted):
        return submitted["pid"], submitted["host"]
    return None


def _executor(submitted: dict[str, Any] | None, owner: Owner | None, events: list[Event]) -> str:
    """Return where the run runs; one whose script was submitted by hand has no ``run.json``."""
    if submitted is not None:
        return str(submitted["executor"])
    by_hand = (owner is not None and owner.job) or any("job_id" in event.fields for event in events)
    return "slurm" if by_hand else "local"


def _submitted_job(submitted: dict[str, Any] | None, events: list[Event]) -> str | None:
    """Return the job that was submitted and has not begun, empty if its id is not recorded yet; else None."""
    if submitted is None or submitted["executor"] != "slurm":
        return None
    job = str(submitted.get("job_id", ""))
    return None if job and job in _jobs(events, "attempt_started", "submission_cancelled") else job


def _successor(events: list[Event]) -> str:
    """Return the newest job that was queued to take over and has neither begun nor been cancelled."""
    past = _jobs(events, "attempt_started", "successor_cancelled")
    return next((job for job in reversed(_jobs(events, "successor_queued")) if job not in past), "")


def _jobs(events: list[Event], *names: str) -> list[str]:
    return [str(event.fields["job_id"]) for event in events if event.event in names and "job_id" in event.fields]


def _starting(submitted: dict[str, Any], attempt: int) -> bool:
    """Whether a submitted process lives that has not yet begun its attempt."""
    return submitted.get("attempt", 1) > attempt and _submission_alive(submitted)


def _submission_alive(submitted: dict[str, Any]) -> bool:
    pid, start = submitted.get("pid"), submitted.get("start_time")
    if pid is None or start is None or submitted.get("host") != socket.gethostname():
        return False
    return processes.alive(pid, start)


def _lost(attempt: int, owner: Owner | None, executor: str) -> RunState:
    who = f"The supervisor (pid {owner.pid} on {owner.host})" if owner else "The supervisor"
    return RunState(
        state="LOST",
        attempt=attempt,
        cause=f"{who} ended without a word; it was killed or its machine went down. Continue with `resume`.",
        host=owner.host if owner else "",
        executor=executor,
    )
