"""The killing: of processes that the run's own records name, and of their descendants, never of others.

The driver is what the ledger says was started for the role. Ray's actors are found among its descendants: Ray sends
what a worker prints to a log named ``worker-...``, and titles one that has nothing to do ``ray::IDLE``.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator import control, processes
from orchestrator.ledger import Event
from orchestrator.processes import Process
from orchestrator.run_directory import RunDirectory
from orchestrator.verify_resume.kills import Kill

WORKER_LOG = "worker-"
TITLE = "ray::"
IDLE = "ray::IDLE"
GONE_S = 10.0
"""SIGKILL takes effect when the kernel next runs the process; on a busy machine that takes a moment."""


@dataclass(frozen=True, kw_only=True)
class Struck:
    """What was killed.

    Attributes:
        pid: Of the process.
        name: ``the driver``, ``ray::PolicyActor.step``, ``the supervisor``.
        signal: Its name.
        host: Where.
    """

    pid: int
    name: str
    signal: str
    host: str


def strike(run: RunDirectory, start: Event, kill: Kill) -> Struck | None:
    """Kill, and return what was killed; None if there is no such process now.

    Args:
        run: The run.
        start: The role's newest start.
        kill: What to kill.
    """
    if kill.what == "preemption":
        return _preempt(run)
    driver = processes.find(int(start.fields["pid"]))
    if driver is None or not processes.alive(driver.pid, float(start.fields["start"])):
        return None
    if kill.what == "driver":
        return _end(driver, "the driver")
    found = workers(driver)
    return _end(*found[kill.pick % len(found)]) if found else None


def workers(driver: Process) -> Sequence[tuple[Process, str]]:
    """Return Ray's actors below a driver with their titles, in an order that does not depend on their pids."""
    titled = ((process, _title(process.pid)) for process in processes.descendants(driver.pid))
    actors = [(process, title) for process, title in titled if _is_actor(process.pid, title)]
    return sorted(actors, key=lambda pair: (pair[1].partition(".")[0], pair[0].start))


def _preempt(run: RunDirectory) -> Struck | None:
    owner = control.newest_owner(run)
    if owner is None or not processes.alive(owner.pid, owner.start):
        return None
    os.kill(owner.pid, signal.SIGTERM)
    return Struck(pid=owner.pid, name="the supervisor", signal="SIGTERM", host=owner.host)


def _end(target: Process, name: str) -> Struck:
    processes.kill([target])
    processes.wait_gone([target], GONE_S)
    return Struck(pid=target.pid, name=name, signal="SIGKILL", host=socket.gethostname())


def _is_actor(pid: int, title: str) -> bool:
    if not title.startswith(TITLE) or title.startswith(IDLE):
        return False
    try:
        output = os.readlink(f"/proc/{pid}/fd/1")
    except OSError:  # It has just ended.
        return False
    return Path(output).name.startswith(WORKER_LOG)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
