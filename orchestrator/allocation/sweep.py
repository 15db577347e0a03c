"""Ends what an earlier attempt left behind, should its guards have been killed as well."""

from __future__ import annotations

import os
import signal

from orchestrator import ledger, processes
from orchestrator.run_directory import RunDirectory

GRACE_S = 5.0
KILL_S = 5.0


def leftovers(run: RunDirectory) -> list[processes.Process]:
    """Return processes of earlier attempts of this run, ourselves and our ancestors left out.

    Known by their environment, or by being in the session of such a process or of a role of the
    ledger that still lives. A session's number alone proves nothing: it is a pid, and after a while
    or a reboot somebody else's.
    """
    marked = processes.marked({"ORCH_RUN_DIR": str(run.path)})
    roles = {
        event.fields["pid"]: event.fields["start"] for event in ledger.read(run.ledger) if event.event == "role_started"
    }
    sessions = {process.session for process in marked if process.session in roles}
    sessions |= {pid for pid, start in roles.items() if processes.alive(pid, start)}
    found = {process.pid: process for process in marked}
    found |= {p.pid: p for p in processes.everyone() if p.session in sessions and _same_user(p)}
    ours = _ancestry()
    return [process for process in found.values() if process.pid not in ours and not process.ended]


def sweep(run: RunDirectory) -> list[processes.Process]:
    """End all leftovers: asked, then killed. Returns those that even SIGKILL did not end in time."""
    left = leftovers(run)
    processes.kill(left, signal.SIGTERM)
    left = processes.wait_gone(left, GRACE_S)
    processes.kill(left)
    return processes.wait_gone(left, KILL_S)


def _ancestry() -> set[int]:
    pids: set[int] = set()
    process = processes.find(os.getpid())
    while process is not None and process.pid not in pids:
        pids.add(process.pid)
        process = processes.find(process.parent)
    return pids


def _same_user(process: processes.Process) -> bool:
    try:
        return os.stat(f"/proc/{process.pid}").st_uid == os.getuid()
    except FileNotFoundError:
        return False
