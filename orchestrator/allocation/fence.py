"""One writer generation at a time: who may supervise a run, and under which number.

Two things keep a second supervisor out. On one host the kernel's lock on ``control/supervisor.lock``,
which ends with its holder even if that is killed; between hosts, where such locks may mean
nothing, the lease in ``control/supervisor.json``. Whoever gets past both takes the next number
by creating ``attempts/<number>``, which only one process can do on any filesystem.

In a Slurm job there is a better witness than locks and leases: Slurm itself. A job that was queued as the
successor of another has started because that one is over, even if its supervisor, on a node that
was cut off, does not know yet and goes on renewing its lease.
"""

from __future__ import annotations

import fcntl
import os

from orchestrator import control, ledger
from orchestrator.allocation.batch_job import BatchJob
from orchestrator.control import Owner
from orchestrator.errors import ConflictError
from orchestrator.files import PRIVATE_FILE, PRIVATE_FOLDER, private_folder, read_json
from orchestrator.run_directory import RunDirectory


def succeeded(run: RunDirectory) -> bool:
    """Return whether the run has already finished all its work, whoever starts it again."""
    events = ledger.read(run.ledger)
    return any(event.event == "run_finished" and event.fields.get("state") == "SUCCEEDED" for event in events)


def over(run: RunDirectory, job: str) -> str:
    """Return in which state the run has ended for good, so that this job must not go on with it; else nothing.

    A run that failed or was cancelled goes on only in a job that was submitted afterwards on purpose, which
    ``run.json`` names; a successor that nobody could cancel in time has nothing to do any more.
    """
    submitted = read_json(run.run) or {}
    events = ledger.read(run.ledger)
    newest = max((event.generation for event in events), default=0)
    ends = [event for event in events if event.event == "run_finished" and event.generation == newest]
    state = str(ends[-1].fields.get("state", "")) if ends else ""
    on_purpose = str(submitted.get("job_id", "")) == job
    return state if state in ("FAILED", "CANCELLED", "CRASH_LOOP") and not on_purpose else ""


def claim(run: RunDirectory, job: BatchJob | None = None) -> int:
    """Return the generation under which this process alone supervises the run from now on.

    On one machine the lock is held until this process ends.

    Raises:
        ConflictError: Another supervisor lives.
    """
    owner = control.newest_owner(run)
    free = _free_for(job, owner, run) if job is not None else _locked(run) and not lives(owner)
    if not free:
        who = f" (pid {owner.pid} on {owner.host})" if owner else ""
        raise ConflictError(f"run: {run.name} already has a live supervisor{who}. Cancel it first.")
    generation = _next_number(run)
    control.own(run, generation, job.id if job else "")
    _point_latest_at(run, generation)
    return generation


def lives(owner: Owner | None) -> bool:
    """Return whether somebody else supervises the run, as far as files and this host's processes say."""
    return owner is not None and owner.alive and owner.pid != os.getpid()


def _free_for(job: BatchJob, owner: Owner | None, run: RunDirectory) -> bool:
    """Whether Slurm's word, or the lease, lets this job supervise the run."""
    if not lives(owner):
        return True
    assert owner is not None
    if owner.job == job.id:
        return job.restarts > 0 and owner.host not in job.nodes.everyone
    succeeds = any(
        event.event == "successor_queued"
        and str(event.fields.get("job_id")) == job.id
        and str(event.fields.get("after")) == owner.job
        for event in ledger.read(run.ledger)
    )
    if succeeds:
        return True
    from orchestrator.executors import slurm_commands

    other = slurm_commands.show(owner.job) if owner.job else None
    return other is None or other.over


def _locked(run: RunDirectory) -> bool:
    """Take the lock; it stays with the descriptor, which is left open on purpose."""
    private_folder(run.control)
    descriptor = os.open(run.control / "supervisor.lock", os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True


def _next_number(run: RunDirectory) -> int:
    """Create and return the next attempt's folder; one whose supervisor died at once is passed over."""
    private_folder(run.attempts)
    number = ledger.newest_generation(run.ledger) + 1
    while True:
        try:
            run.attempt(number).mkdir(mode=PRIVATE_FOLDER)
        except FileExistsError:
            number += 1
        else:
            return number


def _point_latest_at(run: RunDirectory, generation: int) -> None:
    fresh = run.attempts / f".latest.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(str(generation))
    os.replace(fresh, run.latest)
