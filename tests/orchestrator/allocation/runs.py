"""Runs of fake roles, for the supervisor's tests: make one, start it, wait for what it must become."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator import ledger, plan, processes
from orchestrator.ledger import Event
from orchestrator.plan import Placement, Plan, Restarts, Role
from orchestrator.run_directory import RunDirectory

FAKES = "tests.orchestrator.allocation.fakes"
CHECKOUT = Path(__file__).resolve().parents[3]


def batch(name: str, **known: Any) -> Role:
    """Return a batch role of the fake program; ``settings`` say what it does."""
    return Role(**({"name": name, "job": f"{FAKES}.batch", "kind": "batch", "backoff_s": 0.05, "drain_s": 5.0} | known))


def service(name: str, **known: Any) -> Role:
    """Return a fake service."""
    known = {"name": name, "job": f"{FAKES}.service", "kind": "service", "backoff_s": 0.05, "drain_s": 5.0} | known
    return Role(**known)


def make_run(folder: Path, *roles: Role, time_limit_s: int = 120, without_progress: int = 3) -> RunDirectory:
    """Return a run directory with a plan of these roles."""
    run = RunDirectory(folder / "run")
    run.create()
    run.plan.write_text(
        plan.to_json(
            Plan(
                name="run",
                recipe="test.yaml",
                recipe_sha256="0" * 64,
                cluster="local",
                executor="local",
                placement=Placement(kind="local", why="a test"),
                time_limit_s=time_limit_s,
                restarts=Restarts(without_progress=without_progress),
                roles=roles,
            )
        )
    )
    return run


def supervise(run: RunDirectory) -> subprocess.Popen[bytes]:
    """Start a supervisor, its output discarded; its log is in the run."""
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.allocation.supervisor", "--run-dir", str(run.path)],
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def events(run: RunDirectory, name: str | None = None, **fields: Any) -> list[Event]:
    """Return the ledger's events of that name with these fields."""
    return [
        event
        for event in ledger.read(run.ledger)
        if name in (None, event.event) and fields.items() <= event.fields.items()
    ]


def last(run: RunDirectory) -> dict[str, Any]:
    """Return the fields of ``run_finished``."""
    return events(run, "run_finished")[-1].fields


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """Return the condition's first true value, or fail saying what was waited for."""
    until = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < until, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.02)
    return value


def wait_for_event(run: RunDirectory, name: str, **fields: Any) -> Event:
    """Return the first event of that name with these fields, when it is there."""
    return wait_for(lambda: events(run, name, **fields), f"{name} {fields}")[0]  # type: ignore[no-any-return]


def processes_of(run: RunDirectory) -> list[int]:
    """Return the pids of all live processes of a run's roles and guards."""
    found = processes.marked({"ORCH_RUN_DIR": str(run.path)})
    grandchildren = [int(file.read_text()) for file in run.path.glob("*.grandchild")]
    alive = [pid for pid in grandchildren if (p := processes.find(pid)) is not None and not p.ended]
    return [p.pid for p in found if not p.ended and p.pid != os.getpid()] + alive
