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

    Known by their environment, or by the session of a role in the ledger: a session keeps its
    number while anyone lives in it, so its leader's pid cannot be used again before.
    """
    sessions = {
        event.fields["pid"]: event.fields["start"] for event in ledger.read(run.ledger) if event.event == "role_started"
    }
    ours = _ancestry()
    found = {process.pid: process for process in processes.marked({"ORCH_RUN_DIR": str(run.path)})}
    for process in processes.everyone():
        began = sessions.get(process.session)
        if began is not None and process.start >= began - processes.SAME_START_S and _same_user(process):
            found[process.pid] = process
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
