"""Start, crash of the judge and preemption, of every launcher in turn, round after round."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.figures import Figure
from bench.peers import Peer
from bench.peers.requeue_script import RequeueScript
from bench.peers.submitit_job import Submitit
from bench.peers.torchx import TorchX
from bench.stand_in import marks
from bench.stand_in.marks import Mark
from cluster.sandbox import Options
from tests.slurm_runs import FAKES, Cluster, Run

STEP_S = 0.05
START_S = 180.0
REQUEUE_S = 300.0
HELD_S = 2.0
"""A job of high priority keeps the nodes it has taken for so long."""
POLL_S = 0.02
WATCHED_S = 30.0
"""For so long it is watched what becomes of a peer's job without a judge."""
START = "submit to both roles running, s"
JUDGE = "judge kill -9 to next verdict, s"
LOST = "steps lost by it"
PREEMPTED = "preemption signal to next step, s"
GOALS = {(START, "slice"): 4.0, (JUDGE, "slice"): 2.0, (JUDGE, "hetjob"): 2.0, (LOST, "slice"): 0.0}
GOALS |= {(LOST, "hetjob"): 0.0, (PREEMPTED, "slice"): 5.0, (PREEMPTED, "hetjob"): 35.0}
NEMO = Figure(what=PREEMPTED, who="NeMo-Run", note="not tried")

Say = Callable[[str], None]
Values = dict[tuple[str, str], list[float]]


def measure(
    cluster: Cluster, folder: Path, torchx: Path | None, repeats: int, say: Say, *, alone: bool = False
) -> list[Figure]:
    """Return the figures of all rounds; ``alone`` leaves the others out, for whom most of the time is waited."""
    values: Values = defaultdict(list)
    notes: dict[tuple[str, str], str] = {}
    for turn in range(1, repeats + 1):
        peers = [] if alone else _peers(cluster, folder / f"peers{turn}", torchx)
        for peer in peers:
            say(f"round {turn} of {repeats}: {peer.name} starts")
            values[START, peer.name].append(_start(peer))
        for peer in peers:
            say(f"round {turn} of {repeats}: {peer.name} is preempted")
            _preempt(cluster, peer.marks, peer.marks("started")[-1]["host"])
        for placement in ("slice", "hetjob"):
            say(f"round {turn} of {repeats}: our {placement}")
            _ours(cluster, placement, values)
        for peer in peers:
            say(f"round {turn} of {repeats}: waiting for {peer.name} to run again")
            values[PREEMPTED, peer.name].append(_recovery(peer.marks, REQUEUE_S))
            notes[JUDGE, peer.name] = _kill_judge(peer)
            peer.cancel()
    return _figures(values, notes)


def recipe(placement: str, *, step_s: float, steps: int = 1_000_000, **top: Any) -> dict[str, Any]:
    """Return a recipe of the stand-ins."""
    again = {"restart": 1000, "backoff_s": 0.1}
    # Whole nodes, for us and for the peers, so that a preemption hits one of them only.
    whole = {"cpus_per_node": Options().cpus}
    judge: dict[str, Any] = {"job": f"{FAKES}.service", "drain_s": 3, "on_failure": again} | whole
    if placement == "slice":
        judge["slurm"] = {"partition": "train"}
    train = {
        "job": "bench.stand_in.trainer", "nodes": 1, "needs": ["judge"], "drain_s": 5, "on_failure": again,
        "with": {"steps": steps, "step_s": step_s, "ask": "judge"},
    } | whole  # fmt: skip
    return {"name": "r", "roles": {"judge": judge, "train": train}, "placement": placement, "time_limit": "1h"} | top


def wait(condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
    """Return what the condition returns once it is true.

    Raises:
        TimeoutError: It is not in time.
    """
    until = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s.")
        time.sleep(POLL_S)
    return found


def after_signal(found: list[Mark]) -> float | None:
    """Return the seconds from the trainer's first signal to the first step of a later start; None: not yet.

    Marks of the judge's own signals count for nothing: only what the process of the first step hears does.
    """
    first = next(mark for mark in found if mark["what"] == "started")
    heard = next((m for m in found if m["what"] == "signal" and m["pid"] == first["pid"]), None)
    again = next((m for m in found if m["what"] == "step" and m["pid"] != first["pid"]), None)
    return None if heard is None or again is None else float(again["at"] - heard["at"])


def _peers(cluster: Cluster, folder: Path, torchx: Path | None) -> list[Peer]:
    sandbox = cluster.sandbox
    found: list[Peer] = [RequeueScript(sandbox, folder / "script", STEP_S)]
    found.append(Submitit(sandbox, folder / "submitit", STEP_S))
    if torchx is not None:
        found.append(TorchX(sandbox, folder / "torchx", STEP_S, torchx))
    return found


def _start(peer: Peer) -> float:
    began = time.time()
    peer.submit()
    wait(lambda: peer.marks("judge") and peer.marks("step"), f"{peer.name}: start", START_S)
    return float(max(peer.marks("judge")[0]["at"], peer.marks("started")[0]["at"]) - began)


def _preempt(cluster: Cluster, read: Callable[..., list[Mark]], node: str) -> None:
    before = len(read("signal"))
    cluster.sandbox.preempt([node], HELD_S)
    wait(lambda: len(read("signal")) > before, "the signal of a preemption", START_S)


def _recovery(read: Callable[..., list[Mark]], timeout_s: float) -> float:
    return float(wait(lambda: after_signal(read()), "a step after a preemption", timeout_s))


def _ours(cluster: Cluster, placement: str, values: Values) -> None:
    began = time.time()
    run = cluster.submit(recipe(placement, step_s=STEP_S))

    def read(*what: str) -> list[Mark]:
        return marks.read(run.directory.path, *what)

    wait(lambda: len(read("step")) >= 5, f"{placement}: steps", START_S)
    values[START, placement].append(float(read("started")[0]["at"] - began))
    judge_s, lost = _crash_judge(run, read)
    values[JUDGE, placement].append(judge_s)
    values[LOST, placement].append(lost)
    _preempt(cluster, read, read("started")[0]["host"])
    values[PREEMPTED, placement].append(_recovery(read, START_S))
    cluster.verb("cancel", run.directory.name)
    run.wait_end("CANCELLED")


def _crash_judge(run: Run, read: Callable[..., list[Mark]]) -> tuple[float, float]:
    """Return the seconds without a verdict, and the steps that were lost or done again."""
    before = str(read("step")[-1]["judge"])
    at = time.time()
    os.kill(run.record("judge").pid, signal.SIGKILL)
    found = wait(
        lambda: next((m for m in read("step") if m["at"] > at and m["judge"] != before), None), "a verdict", START_S
    )
    numbers = [mark["step"] for mark in read("step")]
    return float(found["at"] - at - STEP_S), float(len(numbers) - len(set(numbers)) + len(read("started")) - 1)


def _kill_judge(peer: Peer) -> str:
    """Kill a peer's judge and say what became of the job."""
    at = time.time()
    starts = len(peer.marks("started"))
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(peer.marks("judge")[-1]["pid"]), signal.SIGKILL)
    trainer = int(peer.marks("started")[-1]["pid"])
    with contextlib.suppress(TimeoutError):
        wait(lambda: not Path(f"/proc/{trainer}").exists(), "the trainer's end", WATCHED_S)
        ended_s = time.time() - at
        back = "" if len(peer.marks("started")) == starts else ", and was started again"
        return f"no verdict: the trainer was ended {ended_s:.1f} s later{back}; the whole job waits for its requeue"
    return f"no verdict within {WATCHED_S:g} s: nobody starts the judge again, the trainer waits"


def _figures(values: Values, notes: dict[tuple[str, str], str]) -> list[Figure]:
    measured = [
        Figure(what=what, who=who, values=[round(value, 3) for value in found], goal=GOALS.get((what, who)))
        for (what, who), found in values.items()
    ]
    told = [Figure(what=what, who=who, note=note) for (what, who), note in notes.items()]
    return [*measured, NEMO, *told]
