"""The record of a submission to Slurm: ``run.json`` is written before ``sbatch`` and completed after it.

Between the two anything may die. The record then names a comment and no job, and the comment, which
the job carries, finds it: with one question to Slurm it is known whether the job exists. A lock keeps
two processes from submitting one run at once. ``sbatch`` holds it too, so even if its parent is killed
nobody asks before it has ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator import control, ledger
from orchestrator.errors import ConflictError
from orchestrator.executors import slurm_commands
from orchestrator.executors.slurm_commands import SUBMIT_TIMEOUT_S, Job
from orchestrator.files import PRIVATE_FILE, private_folder, read_json, write_json
from orchestrator.run_directory import RunDirectory

LOCK_WAIT_S = SUBMIT_TIMEOUT_S + 10
ENDING = ("COMPLETING", "STAGE_OUT", "STOPPED")
"""States of a job whose batch script has ended."""


def comment(run: RunDirectory) -> str:
    """Return the comment that all jobs of a run carry: the same for one folder, another for another.

    >>> comment(RunDirectory(Path("/runs/geo3k")))
    'orch:geo3k:4fa7c0f4'
    """
    return f"orch:{run.name}:{hashlib.sha256(os.fsencode(run.path)).hexdigest()[:8]}"


@contextmanager
def locked(run: RunDirectory, wait_s: float = LOCK_WAIT_S) -> Iterator[int]:
    """Hold the run's submission lock; yields its descriptor, for ``sbatch`` to hold as well.

    Raises:
        ConflictError: Another process has held it for ``wait_s``.
    """
    private_folder(run.control)
    descriptor = os.open(run.control / "submit.lock", os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
    until = time.monotonic() + wait_s
    try:
        while not _taken(descriptor):
            if time.monotonic() >= until:
                raise ConflictError(f"run: {run.name} is being submitted by another process. {_look(run)}")
            time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


def begin(run: RunDirectory, attempt: int) -> dict[str, Any]:
    """Record the intent to submit, and return the record."""
    record = {
        "executor": "slurm",
        "comment": comment(run),
        "attempt": attempt,
        "submitted_at": time.time(),
        "submitted_by": {"pid": os.getpid(), "host": socket.gethostname()},
    }
    write_json(run.run, record)
    return record


def complete(run: RunDirectory, record: dict[str, Any], job_id: str) -> dict[str, Any]:
    """Record the job that the intent has become, and return the record."""
    record = record | {"job_id": job_id}
    write_json(run.run, record)
    return record


def withdraw(run: RunDirectory) -> None:
    """Record that nothing was submitted."""
    run.run.unlink(missing_ok=True)


def unfinished(run: RunDirectory) -> dict[str, Any] | None:
    """Return the record of a submission of which nobody has written down whether it succeeded."""
    record = read_json(run.run)
    is_open = record is not None and record.get("executor") == "slurm" and not record.get("job_id")
    return dict(record) if is_open and record is not None else None


def discard(run: RunDirectory) -> None:
    """Remove a run that has just been made and of which nothing was submitted, so that its name is free again."""
    hidden = run.path.with_name(f".{run.name}.{os.getpid()}.discarded")
    os.rename(run.path, hidden)
    shutil.rmtree(hidden)


def settle(run: RunDirectory) -> tuple[Job | None, str]:
    """Find out what became of an interrupted submission: its job is adopted, or the record withdrawn.

    Asks Slurm once, and only if a submission was interrupted.

    Returns:
        The job that was adopted, if any, and a sentence for people; empty if there was nothing to do.
    """
    if unfinished(run) is None:
        return None, ""
    with locked(run):
        record = unfinished(run)
        if record is None:
            return None, ""
        if _may_be_under_way(record):
            return None, f"It is being submitted from {record['submitted_by']['host']}."
        found = [job for job in slurm_commands.by_comment(record["comment"]) if job.id not in known_jobs(run)]
        if found:
            complete(run, record, found[-1].id)
            return found[-1], f"The interrupted submission had queued job {found[-1].id}; it is recorded now."
        withdraw(run)
        return None, "The submission was interrupted before anything was queued; `resume` submits it."


def record_own_id(run: RunDirectory, job_id: str) -> None:
    """Complete the record from inside the job that it announces, should its submitter not have come to it."""
    record = unfinished(run)
    if record is not None and job_id not in known_jobs(run):
        complete(run, record, job_id)


def refuse_second(run: RunDirectory) -> None:
    """Raise if the run has a supervisor, or a job that waits or runs. Call it under the lock.

    Asks Slurm once, unless nothing was ever submitted.

    Raises:
        ConflictError: Names the supervisor or job.
    """
    living = control.live_process(run)
    if living is not None:
        pid, host = living
        raise ConflictError(f"run: {run.name} is running already (pid {pid} on {host}). {_look(run)}")
    record = unfinished(run)
    if record is not None and _may_be_under_way(record):
        where = record["submitted_by"]["host"]
        raise ConflictError(f"run: {run.name} is being submitted from {where}. {_look(run)}")
    if not run.run.exists() and not ledger.newest_generation(run.ledger):
        return
    live = live_jobs(run)
    if not live:
        return
    unknown = [job for job in live if job.id not in known_jobs(run)]
    if record is not None and unknown:
        complete(run, record, unknown[-1].id)
    told = " and ".join(f"job {job.id} ({job.state.lower()})" for job in live)
    raise ConflictError(f"run: {run.name} has {told} in Slurm already. {_look(run)}")


def live_jobs(run: RunDirectory) -> list[Job]:
    """Return the run's jobs that wait, or run an attempt that has not ended. Asks Slurm once."""
    return [job for job in slurm_commands.by_comment(comment(run)) if _counts(job, run)]


def known_jobs(run: RunDirectory) -> set[str]:
    """Return the ids of all jobs that the ledger tells of."""
    return {str(event.fields["job_id"]) for event in ledger.read(run.ledger) if "job_id" in event.fields}


def _counts(job: Job, run: RunDirectory) -> bool:
    """Whether a job stands in the way of another; one whose attempt has said its last word does not."""
    events = ledger.read(run.ledger)
    ended = {event.generation for event in events if event.event == "run_finished"}
    finished = {
        str(event.fields.get("job_id"))
        for event in events
        if event.event == "attempt_started" and event.generation in ended
    }
    return job.state not in ENDING and not (job.state == "RUNNING" and job.id in finished)


def _may_be_under_way(record: dict[str, Any]) -> bool:
    """Whether another machine, whose locks may not reach here, can still be waiting for ``sbatch``."""
    elsewhere = record["submitted_by"]["host"] != socket.gethostname()
    return bool(elsewhere and time.time() - record["submitted_at"] < LOCK_WAIT_S)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _look(run: RunDirectory) -> str:
    return f"Watch it with `status {run.name}`, or end it with `cancel {run.name}`."
