"""The shipped tiny recipe, run as a user runs it, and the questions tests ask of such a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator import control, ledger, processes
from orchestrator.ledger import Event
from orchestrator.run_directory import RunDirectory

CHECKOUT = Path(__file__).parents[1]
RECIPE = "recipes/geo3k-tiny.yaml"


def orchestrator(*arguments: str, runs: Path, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run one command of the product to its end."""
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments],
        cwd=CHECKOUT,
        env=os.environ | {"ORCH_RUNS": str(runs), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def events(run: RunDirectory, name: str) -> list[Event]:
    return [event for event in ledger.read(run.ledger) if event.event == name]


def committed(run: RunDirectory) -> list[int]:
    """Return the steps of all checkpoints ever committed, in the order of their commits."""
    return [event.fields["step"] for event in events(run, "checkpoint_committed")]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def wait_until(what: str, true: Callable[[], bool], run: RunDirectory, *, within_s: float) -> None:
    """Wait for something to become true; fail with the run's state if it does not in time."""
    until = time.monotonic() + within_s
    while not true():
        if time.monotonic() > until:
            now = control.state(run)
            raise AssertionError(f"{what} did not happen within {within_s:g} s; the run is {now}.")
        time.sleep(0.2)


def processes_of(run: RunDirectory) -> list[int]:
    """Return the pids of this user's live processes that were started in the name of the run."""
    mark = f"ORCH_RUN_DIR={run.path}".encode()
    found = []
    for process in processes.everyone():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue
        if not process.ended and mark in environment.split(b"\0"):
            found.append(process.pid)
    return found


def role_pid(run: RunDirectory, role: str) -> int:
    """Return the pid of the newest process started for a role."""
    return int([e for e in events(run, "role_started") if e.fields["role"] == role][-1].fields["pid"])


def titled(run: RunDirectory, title: str) -> int:
    """Return the pid of the run's process whose command line begins with ``title``, as Ray names its workers."""
    for pid in processes_of(run):
        if Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").startswith(title):
            return pid
    raise AssertionError(f"No process of {run.name} is called {title!r}.")


def running(argument: str, run: RunDirectory) -> int:
    """Return the pid of the run's process that has ``argument`` on its command line."""
    for pid in processes_of(run):
        if argument.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return pid
    raise AssertionError(f"No process of {run.name} runs {argument!r}.")
