"""Goodput of a run to which something happens again and again, beside a script that requeues, on the same Slurm."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure
from bench.peers.requeue_script import RequeueScript
from bench.rounds import HELD_S, START_S, recipe, wait
from bench.stand_in import marks
from bench.stand_in.marks import Mark
from cluster.sandbox import Sandbox
from orchestrator import goodput
from orchestrator.goodput import Step
from tests.slurm_runs import Cluster, Run

STEP_S = 2.0
LOOK_S = 1.0
NODE_AWAY_S = 20.0
FAULTS = ("preemption", "judge killed", "trainer killed", "node lost")
ALLOCATED = ("RUNNING", "COMPLETING")
SHARE = "goodput under faults, of allocated time"
WALL = "the same, of the time from the first step on"
SAMPLES = "samples lost or repeated"
GOAL = 0.85

Say = Callable[[str], None]


@dataclass(kw_only=True)
class Target:
    """Who gets the faults.

    Attributes:
        name: In words.
        folder: Where its marks are.
        judge: Returns the pid of its judge.
    """

    name: str
    folder: Path
    judge: Callable[[], int]

    @property
    def trainer(self) -> Mark | None:
        """The start of its trainer; None if that has ended."""
        mark = marks.read(self.folder, "started")[-1]
        return mark if Path(f"/proc/{mark['pid']}").exists() else None

    def strike(self, sandbox: Sandbox, trainer: Mark, fault: str) -> str:
        """Do it, and return the node that is down now, if any is."""
        if fault == "preemption":
            sandbox.preempt([trainer["host"]], HELD_S)
        elif fault == "node lost":
            sandbox.node(trainer["host"]).down()
            return str(trainer["host"])
        else:
            os.kill(self.judge() if fault == "judge killed" else int(trainer["pid"]), signal.SIGKILL)
        return ""


def measure(cluster: Cluster, folder: Path, seconds: float, every_s: float, say: Say) -> list[Figure]:
    """Return goodput and samples of both, after ``seconds`` with a fault every ``every_s``."""
    sandbox = cluster.sandbox
    run = cluster.submit(recipe("slice", step_s=STEP_S))
    script = RequeueScript(sandbox, folder / "campaign-script", STEP_S)
    script.submit()
    ours = Target(name="ours", folder=run.directory.path, judge=lambda: run.record("judge").pid)
    theirs = Target(name=script.name, folder=script.folder, judge=lambda: int(script.marks("judge")[-1]["pid"]))
    wait(lambda: marks.read(ours.folder, "step") and script.marks("step"), "steps of both", START_S)
    began = time.time()
    allocated_s, struck = _strike(sandbox, (ours, theirs), script.job, seconds, every_s, say)
    ended = time.time()
    figures = [*_ours(run, began, ended, struck["ours"]), *_theirs(script, allocated_s, began, ended, struck)]
    cluster.verb("cancel", run.directory.name)
    script.cancel()
    run.wait_end("CANCELLED")
    return figures


def _strike(
    sandbox: Sandbox, targets: tuple[Target, Target], job: str, seconds: float, every_s: float, say: Say
) -> tuple[float, dict[str, list[str]]]:
    """Let the faults happen; return for how long ``job`` was allocated, seconds, and what hit whom."""
    faults = itertools.cycle(FAULTS)
    struck: dict[str, list[str]] = {target.name: [] for target in targets}
    down: dict[str, float] = {}
    allocated_s = 0.0
    began = looked = time.monotonic()
    due = began + every_s
    while (now := time.monotonic()) < began + seconds:
        if sandbox.state(job) in ALLOCATED:
            allocated_s += now - looked
        looked = now
        if now >= due and now < began + seconds - every_s / 2:
            due += every_s
            fault = next(faults)
            for target in targets:
                trainer = target.trainer
                say(f"goodput, {now - began:.0f} of {seconds:.0f} s: {fault} for {target.name}")
                if trainer is None:
                    say(f"{target.name} has no process that it could hit")
                    continue
                struck[target.name].append(fault)
                if node := target.strike(sandbox, trainer, fault):
                    down[node] = now + NODE_AWAY_S
        for node in [node for node, until in down.items() if now >= until]:
            del down[node]
            sandbox.node(node).resume()
        time.sleep(LOOK_S)
    for node in down:
        sandbox.node(node).resume()
    return allocated_s, struck


def productive_s(steps: list[Mark], began: float, ended: float) -> float:
    """Return the time of committed steps between two times, each step counted once.

    >>> step = {"step": 1, "at": 5.0, "took_s": 2.0}
    >>> productive_s([step, step | {"at": 8.0}], 0.0, 10.0)
    2.0
    """
    unique = {mark["step"]: mark for mark in steps if began <= mark["at"] <= ended}
    return float(sum(mark["took_s"] for mark in unique.values()))


def _ours(run: Run, began: float, ended: float, struck: list[str]) -> list[Figure]:
    done = marks.read(run.directory.path, "step")
    steps = [Step(number=mark["step"], end=mark["at"], took_s=mark["took_s"]) for mark in done]
    found = goodput.measure(run.events(), steps, trainers={"train"}, now=ended)
    seconds = ", ".join(f"{cause} {spent:.0f}" for cause, spent in found.seconds.items() if spent >= 1)
    lost, repeated = marks.lost_and_repeated(done)
    wall = productive_s(done, began, ended) / (ended - began)
    note = f"{len(struck)} faults; s: queue {found.queue_s:.0f}, {seconds}"
    return [
        Figure(what=SHARE, who="slice", values=[found.goodput], goal=GOAL, bound="at least", note=note),
        Figure(what=WALL, who="slice", values=[round(wall, 3)]),
        Figure(what=SAMPLES, who="slice", values=[float(lost + repeated)], goal=0),
    ]


def _theirs(
    script: RequeueScript, allocated_s: float, began: float, ended: float, struck: dict[str, list[str]]
) -> list[Figure]:
    done = script.marks("step")
    productive = productive_s(done, began, ended)
    lost, repeated = marks.lost_and_repeated(done)
    missing = len(struck["ours"]) - len(struck[script.name])
    spared = f"; {missing} passed it by, it waited for its requeue" if missing else ""
    note = f"{len(struck[script.name])} faults{spared}"
    share = productive / allocated_s if allocated_s else 0.0
    return [
        Figure(what=SHARE, who=script.name, values=[round(share, 3)], note=note),
        Figure(what=WALL, who=script.name, values=[round(productive / (ended - began), 3)]),
        Figure(what=SAMPLES, who=script.name, values=[float(lost + repeated)]),
    ]
