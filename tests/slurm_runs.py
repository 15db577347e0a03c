"""Runs on a sandbox's Slurm, for the tests of faults: submit one, wait for what it must become, look at what it did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster.sandbox import Sandbox
from orchestrator import ledger
from orchestrator.allocation import step
from orchestrator.ledger import Event
from orchestrator.run_directory import RunDirectory

CHECKOUT = Path(__file__).resolve().parents[1]
FAKES = "tests.orchestrator.allocation.fakes"
LONGEST_S = 90.0


def recipe(
    *, steps: int = 40, train: dict[str, Any] | None = None, judge: dict[str, Any] | None = None, **top: Any
) -> dict[str, Any]:
    """Return a recipe of a judge that answers like one and a trainer that commits steps without a model."""
    settings = {"steps": steps, "ask": "judge", **(train or {}).pop("with", {})}
    roles: dict[str, Any] = {
        "judge": {"job": f"{FAKES}.service", "drain_s": 3, "on_failure": {"restart": 20, "backoff_s": 0.1}},
        "train": {"job": f"{FAKES}.trainer", "drain_s": 5, "on_failure": {"restart": 3, "backoff_s": 0.1}},
    }
    roles["judge"] |= judge or {}
    roles["train"] |= {"nodes": 2, "needs": ["judge"], **(train or {}), "with": settings}
    return {"name": "r", "roles": roles, "time_limit": "10m", "placement": "hetjob", **top}


@dataclass
class Cluster:
    """A sandbox and the runs on it."""

    sandbox: Sandbox
    folder: Path
    submitted: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        runs = {"ORCH_RUNS": str(self.folder / "runs")}
        return dict(os.environ) | self.sandbox.env | runs | self.environment

    def verb(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run one command of the command line."""
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *arguments],
            cwd=CHECKOUT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def submit(self, what: dict[str, Any], *arguments: str) -> Run:
        """Submit a recipe under a name of its own and return the run."""
        self.submitted += 1
        name = f"r{self.submitted}"
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(what | {"name": name}))
        done = self.verb("submit", str(file), "--cluster", "sandbox", "--parsable", *arguments)
        assert done.returncode == 0, done.stderr
        job, _, path = done.stdout.strip().partition(";")
        return Run(self, RunDirectory(Path(path)), job)


@dataclass
class Run:
    """A submitted run."""

    cluster: Cluster
    directory: RunDirectory
    job: str

    def events(self, *names: str) -> list[Event]:
        """Return the events of these names, all if none is given."""
        return [event for event in ledger.read(self.directory.ledger) if not names or event.event in names]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The committed steps in the order of their lines."""
        file = self.directory.path / "steps.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def job_now(self) -> str:
        """The Slurm job of the newest attempt."""
        return str(self.events("attempt_started")[-1].fields["job_id"])

    @property
    def leader(self) -> str:
        """The node of the newest attempt's supervisor."""
        return str(self.events("attempt_started")[-1].fields["host"])

    def nodes_of(self, role: str) -> list[str]:
        """Return the nodes of a role's newest start."""
        started = [event for event in self.events("role_started") if event.fields["role"] == role]
        return list(started[-1].fields["nodes"])

    def record(self, role: str, rank: int = 0) -> step.Record:
        """Return what a task of a role says of itself."""
        return step.Record(**json.loads(step.path_of(self.directory, role, 0, rank).read_text()))

    def wait_until(self, condition: Callable[[], object], what: str, timeout_s: float = LONGEST_S) -> float:
        """Wait for something and return how long it took, seconds."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > timeout_s:
                raise AssertionError(f"{what}: not within {timeout_s:g} s.\n{self.story()}")
            time.sleep(0.05)
        return time.monotonic() - began

    def wait_step(self, number: int) -> float:
        return self.wait_until(lambda: len(self.steps) >= number, f"step {number}")

    def wait_attempt(self, number: int) -> float:
        return self.wait_until(lambda: len(self.events("attempt_started")) >= number, f"attempt {number}")

    def first_step_of(self, attempt: int) -> float:
        """Wait for an attempt's first committed step and return its time, Unix seconds."""
        self.wait_until(lambda: any(line["generation"] == attempt for line in self.steps), f"a step of {attempt}")
        return float(next(line["at"] for line in self.steps if line["generation"] == attempt))

    def wait_end(self, state: str = "SUCCEEDED", timeout_s: float = LONGEST_S) -> Event:
        """Wait for the run's end for good, which must be this one."""
        over = ("SUCCEEDED", "FAILED", "CANCELLED", "CRASH_LOOP")

        def ends() -> list[Event]:
            return [event for event in self.events("run_finished") if event.fields["state"] in over]

        self.wait_until(ends, "the end", timeout_s)
        assert ends()[-1].fields["state"] == state, self.story()
        return ends()[-1]

    def assert_every_step_once(self, total: int) -> None:
        """Every planned step was committed, exactly once, in order, and never by an attempt that was over."""
        assert [line["step"] for line in self.steps] == list(range(1, total + 1)), self.story()
        generations = [line["generation"] for line in self.steps]
        assert generations == sorted(generations), self.story()

    def stop_and_check(self) -> None:
        """Cancel a run that has shown enough, and look at what it committed: without a gap, nothing twice."""
        assert self.cluster.verb("cancel", self.directory.name).returncode == 0
        self.wait_end("CANCELLED")
        self.assert_every_step_once(len(self.steps))
        self.assert_nothing_left()

    def assert_nothing_left(self) -> None:
        """No job of the run waits or runs any more; Slurm may take a minute to clean up after it."""

        def queued() -> str:
            listed = self.cluster.sandbox.run(
                ["squeue", "--noheader", "--states=PD,R", "--format=%i %k"], timeout_s=20
            ).stdout
            return "\n".join(line for line in listed.splitlines() if f"orch:{self.directory.name}:" in line)

        self.wait_until(lambda: not queued(), "no job in the queue", 30)

    def kinds(self) -> Counter[str]:
        """Return how attempts ended."""
        return Counter(str(event.fields["kind"]) for event in self.events("run_finished", "attempt_lost"))

    def story(self) -> str:
        """Return the ledger and the ends of all logs, for a failed test."""
        lines = [
            f"{event.at:.2f} {event.generation} {event.event} {event.fields}"
            for event in self.events()
            if event.event != "checkpoint_committed"
        ]
        for log in sorted(self.directory.path.glob("attempts/[0-9]*/*.log")):
            lines += [f"== {log.relative_to(self.directory.path)}", *log.read_text(errors="replace").splitlines()[-8:]]
        return "\n".join(lines)
