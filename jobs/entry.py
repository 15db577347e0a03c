"""How every job starts and ends: arguments, settings, the wish to stop, the exit code.

    python -m jobs.grpo --run-dir runs/geo3k --role train     inside a run, started by the supervisor
    python -m jobs.sft --settings sft.yaml --out out/         by hand, without a run

A job exits with 0 when its work is done, with ``DRAINED`` when it was asked to stop and has saved
what it needs to go on, and with anything else when it failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

import yaml
from pydantic import ValidationError

from orchestrator import plan, rendezvous
from orchestrator.errors import InputError, OrchestratorError, Problem, all_at_once
from orchestrator.ledger import Ledger
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory
from orchestrator.section import Section

DRAINED = 75
S = TypeVar("S", bound=Section)


class Drain:
    """Whether the job has been asked to stop. The handler only records; the job's loop acts."""

    def __init__(self) -> None:
        self.requested = False

    def listen(self) -> Drain:
        """Record SIGTERM and SIGUSR2 from now on. Main thread only, as Python demands."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._record)
        return self

    def _record(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a job works and in whose name.

    Attributes:
        run: The run's directory; for a job started by hand, its ``--out`` folder.
        role: The role's name; for a job started by hand, the job's.
        generation: The attempt this process belongs to, counted from 1.
        plan: None for a job started by hand.
        ledger: Where to record what happened.
        progress: Where to say what is being done.
    """

    run: RunDirectory
    role: str
    generation: int
    plan: plan.Plan | None
    ledger: Ledger
    progress: Progress


def start(job: str, settings_type: type[S], arguments: list[str] | None = None) -> tuple[Context, S]:
    """Return the job's context and its settings, every ``{role.key}`` in them filled in.

    Raises:
        InputError: The settings are wrong; all problems are listed.
    """
    parser = argparse.ArgumentParser(prog=f"python -m jobs.{job}", description=settings_type.__doc__)
    parser.add_argument("--run-dir", type=Path, help="the run this job is a role of")
    parser.add_argument("--role", help="its role in the run")
    parser.add_argument("--settings", type=Path, help="a YAML file of settings, to start the job by hand")
    parser.add_argument("--out", type=Path, help="where a job started by hand writes")
    given = parser.parse_args(arguments)
    if given.run_dir and given.role:
        return _in_a_run(given.run_dir, given.role, settings_type)
    if not (given.settings and given.out):
        parser.error("give either --run-dir and --role, or --settings and --out")
    return _by_hand(job, given.settings, given.out, settings_type)


def check(settings_type: type[S], values: object, place: str) -> S:
    """Return ``values`` as settings, or raise with every problem and its place."""
    try:
        return settings_type.model_validate(values)
    except ValidationError as error:
        problems = [
            Problem(
                place=".".join([place, *map(str, e["loc"])]).strip("."),
                fact=f"{e['msg']}, got {e['input']!r}.",
            )
            for e in error.errors()
        ]
        raise all_at_once(place or "settings", problems) from None


def exit_with(error: OrchestratorError) -> int:
    """Print a user's error as the last lines of the log and return its exit code.

    Its first line is what the ledger and ``status`` repeat, so of a list of problems it holds the first.
    """
    first, *more = str(error).splitlines() or [type(error).__name__]
    if more and more[0].startswith("  "):
        first = f"{first} {more.pop(0).strip()}"
    print("\n".join([f"error: {first}", *more]), file=sys.stderr, flush=True)
    return error.exit_code


def _in_a_run(folder: Path, role: str, settings_type: type[S]) -> tuple[Context, S]:
    run = RunDirectory(folder.absolute())
    the_plan = plan.load(run.plan)
    mine = the_plan.role(role)
    generation = int(os.environ.get("ORCH_GENERATION", "1"))
    values = rendezvous.published_values(run, (*mine.needs, *mine.after), generation=generation)
    settings = check(settings_type, rendezvous.fill(mine.settings, values), f"roles.{role}.with")
    return _context(run, role, generation, the_plan), settings


def _by_hand(job: str, file: Path, out: Path, settings_type: type[S]) -> tuple[Context, S]:
    if not file.is_file():
        raise InputError(f"--settings: {file} is not a file.")
    run = RunDirectory(out.absolute())
    run.create()
    settings = check(settings_type, yaml.safe_load(file.read_text(encoding="utf-8")) or {}, "")
    return _context(run, job, 1, None), settings


def _context(run: RunDirectory, role: str, generation: int, the_plan: plan.Plan | None) -> Context:
    return Context(
        run=run,
        role=role,
        generation=generation,
        plan=the_plan,
        ledger=Ledger(run.ledger, generation),
        progress=Progress(run.progress, role),
    )
