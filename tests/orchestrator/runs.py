"""Runs made by hand, for tests of what reads them: a plan, a ledger, progress, logs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from orchestrator import plan
from orchestrator.plan import Placement, Plan, Restarts, Role
from orchestrator.run_directory import RunDirectory

ROLES = (
    Role(name="tiny", job="tiny", kind="batch"),
    Role(name="judge", job="judge", kind="service", after=("tiny",)),
    Role(name="train", job="grpo", kind="batch", needs=("judge",)),
)


def make(root: Path, name: str = "a") -> RunDirectory:
    """Return a run that was submitted and of which nothing has happened yet."""
    run = RunDirectory(root / name)
    run.create()
    the_plan = Plan(
        name=name,
        recipe="recipes/a.yaml",
        recipe_sha256="0" * 64,
        cluster="local",
        executor="local",
        placement=Placement(kind="local", why="Because."),
        time_limit_s=60,
        restarts=Restarts(),
        roles=ROLES,
    )
    run.plan.write_text(plan.to_json(the_plan))
    tell(run, 0, "submitted")
    return run


def tell(run: RunDirectory, generation: int, event: str, at: float | None = None, **fields: Any) -> None:
    """Add an event to the ledger, at a time of our choosing."""
    record = {"at": at or time.time(), "generation": generation, "event": event, **fields}
    with run.ledger.open("a") as file:
        file.write(json.dumps(record) + "\n")


def say(run: RunDirectory, role: str, **fields: Any) -> None:
    """Write a role's progress."""
    now = time.time()
    known = {"phase": "", "done": 0, "total": None, "unit": "", "message": "", "at": now, "started_at": now} | fields
    (run.progress / f"{role}.json").write_text(json.dumps({"role": role, **known}))


def log(run: RunDirectory, attempt: int, name: str, text: str) -> None:
    """Append to a log."""
    folder = run.attempt(attempt)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.log").open("a") as file:
        file.write(text)
