"""One writer generation at a time: who may supervise a run, and under which number.

Two things keep a second supervisor out. On one host the kernel's lock on ``control/supervisor.lock``,
which ends with its holder even if that is killed; between hosts, where such locks may mean
nothing, the lease in ``control/supervisor.json``. Whoever gets past both takes the next number
by creating ``attempts/<number>``, which only one process can do on any filesystem.
"""

from __future__ import annotations

import fcntl
import os

from orchestrator import control, ledger
from orchestrator.errors import ConflictError
from orchestrator.files import PRIVATE_FILE, PRIVATE_FOLDER, private_folder
from orchestrator.run_directory import RunDirectory


def succeeded(run: RunDirectory) -> bool:
    """Return whether the run has already finished all its work, whoever starts it again."""
    events = ledger.read(run.ledger)
    return any(event.event == "run_finished" and event.fields.get("state") == "SUCCEEDED" for event in events)


def claim(run: RunDirectory) -> int:
    """Return the generation under which this process alone supervises the run from now on.

    The lock is held until this process ends.

    Raises:
        ConflictError: Another supervisor lives.
    """
    owner = control.newest_owner(run)
    if not _locked(run) or (owner is not None and owner.alive and owner.pid != os.getpid()):
        who = f" (pid {owner.pid} on {owner.host})" if owner else ""
        raise ConflictError(f"run: {run.name} already has a live supervisor{who}. Cancel it first.")
    generation = _next_number(run)
    control.own(run, generation)
    _point_latest_at(run, generation)
    return generation


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
