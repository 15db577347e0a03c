"""The run directory: every path of a run has one name here, and nowhere else.

    runs/<name>/
      recipe.yaml plan.json run.json      what was asked, what will run, who runs it
      submit.sh | submit.sbatch           the script that was handed to the executor
      ledger.jsonl                        what happened, one fsynced line an event
      secrets/*.key                       0600
      endpoints/<service>.json            published when healthy: <role>-<replica>, <role> (gateway)
      outputs/<role>.json                 what a finished role hands to later ones
      progress/<role>.json                what every role is doing now
      attempts/<n>/<role>.log             logs of one attempt; `latest` points at the newest
      checkpoints/step_00000050/          of the trainer, MANIFEST.json last
      journal/step_00000051.jsonl         what each later step was made from, until a checkpoint holds it
      metrics.jsonl rollouts.jsonl tb/    of the trainer
      eval/<model>/<task>/                samples.jsonl, summary.json
      report.html

The directory is the interface: any stage can be rerun, inspected or replaced from what lies here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import InputError, NotFound
from orchestrator.files import private_folder

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class RunDirectory:
    """Names of everything in one run's folder. Makes no promise that any of it exists."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def run(self) -> Path:
        return self.path / "run.json"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def secrets(self) -> Path:
        return self.path / "secrets"

    @property
    def endpoints(self) -> Path:
        return self.path / "endpoints"

    @property
    def outputs(self) -> Path:
        return self.path / "outputs"

    @property
    def progress(self) -> Path:
        return self.path / "progress"

    @property
    def control(self) -> Path:
        """Requests to the supervisor, one file each (``cancel.json``)."""
        return self.path / "control"

    @property
    def steps(self) -> Path:
        """What every task of a job step says of itself: where it runs, how it ended."""
        return self.control / "steps"

    def service_job(self, group: str) -> Path:
        """What the job of a group of services says of itself, in a pair."""
        return self.control / f"services-{group}.json"

    @property
    def attempts(self) -> Path:
        return self.path / "attempts"

    @property
    def latest(self) -> Path:
        return self.attempts / "latest"

    def attempt(self, number: int) -> Path:
        return self.attempts / str(number)

    def role(self, role: str) -> Path:
        """Working files of one role that no other reads (caches, Ray's temporary folder)."""
        return self.path / "roles" / role

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def rollouts(self) -> Path:
        return self.path / "rollouts.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tb"

    @property
    def eval(self) -> Path:
        return self.path / "eval"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def create(self) -> None:
        """Make the folder and its fixed subfolders, private to their owner."""
        for folder in (
            self.path,
            self.secrets,
            self.endpoints,
            self.outputs,
            self.progress,
            self.control,
            self.attempts,
        ):
            private_folder(folder)


def runs_root() -> Path:
    """Return where runs live: ``$ORCH_RUNS``, else ``runs`` in the working directory."""
    return Path(os.environ.get("ORCH_RUNS", "runs")).absolute()


def named(name: str, root: Path | None = None) -> RunDirectory:
    """Return the run directory of that name, whether or not it exists.

    Raises:
        InputError: The name could leave the runs' folder or break a shell.
    """
    if not NAME.fullmatch(name) or name in {".", ".."}:
        raise InputError(
            f"run name: {name!r} is not a run's name. "
            "Use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit."
        )
    return RunDirectory((root or runs_root()) / name)


def find(run: str, root: Path | None = None) -> RunDirectory:
    """Return the existing run called ``run``, which may be a name or a path to its folder.

    Raises:
        NotFound: There is no such run; the message names those that exist.
    """
    here = RunDirectory(Path(run).absolute())
    # A run may be called as some folder of the checkout is.
    is_path = here.path.is_dir() and (os.sep in run or here.plan.exists())
    directory = here if is_path else named(run, root)
    if not directory.plan.exists():
        known = ", ".join(d.name for d in existing(root)) or "none yet"
        raise NotFound(f"run: no run {run!r} in {root or runs_root()}. Runs there: {known}.")
    return directory


def existing(root: Path | None = None) -> list[RunDirectory]:
    """Return all runs under ``root``, newest plan first."""
    folder = root or runs_root()
    plans = sorted(folder.glob("*/plan.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    return [RunDirectory(plan.parent) for plan in plans if NAME.fullmatch(plan.parent.name)]
