"""Killing a run by plan while another thread follows it, and starting it again when it has drained."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from orchestrator import control, follow, ledger
from orchestrator.control import RunState
from orchestrator.errors import Cancelled, ConflictError
from orchestrator.run_directory import RunDirectory
from orchestrator.verify_resume import kills
from orchestrator.verify_resume.kills import Kill, Lookout, Point
from orchestrator.verify_resume.strike import Struck, strike

LOOK_EVERY_S = 0.01
"""A tiny model's optimiser step takes some hundredths of a second."""
END_S = 60.0
"""A supervisor that has written its last word needs a moment to end."""
Start = Callable[[RunDirectory], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Blow:
    """A kill as it happened.

    Attributes:
        kill: As planned.
        at: Unix time, seconds; None if it did not happen.
        point: Where training was then.
        struck: What was killed.
    """

    kill: Kill
    at: float | None = None
    point: Point | None = None
    struck: Struck | None = None


def endure(run: RunDirectory, start: Start, role: str, planned: Sequence[Kill], total: int) -> list[Blow]:
    """Follow a started run to its end while it is killed by plan, and return what was done to it.

    Args:
        run: The run.
        start: Starts its next attempt.
        role: The role that trains.
        planned: The kills, in order.
        total: Steps of the run.

    Raises:
        Cancelled: A person asked the run to stop.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="kills") as thread:
        blows = thread.submit(disturb, run, role, planned, total, stop)
        try:
            attend(run, start, sum(kill.what == "preemption" for kill in planned))
        finally:
            stop.set()
        return blows.result()


def disturb(run: RunDirectory, role: str, planned: Sequence[Kill], total: int, stop: threading.Event) -> list[Blow]:
    """Carry out the kills one after the other, each of a new start of the role, until told to stop."""
    lookout = Lookout(run, role)
    struck_starts = 0
    found = []
    for kill, last_chance in zip(planned, kills.last_chances(planned, total), strict=True):
        blow = Blow(kill=kill)
        while blow.struck is None and not stop.wait(LOOK_EVERY_S):
            starts, now = lookout.starts(), lookout.point()
            if len(starts) > struck_starts and now is not None and kills.due(kill, last_chance, now):
                blow = Blow(kill=kill, at=time.time(), point=now, struck=strike(run, starts[-1], kill))
                struck_starts = len(starts) if blow.struck is not None else struck_starts
        found.append(blow if blow.struck is not None else Blow(kill=kill))
    return found


def attend(run: RunDirectory, start: Start, preemptions: int = 0) -> RunState:
    """Follow a run to its end, continuing it as often as it is drained by a preemption of ours.

    Raises:
        Cancelled: A person asked the run to stop.
    """
    while True:
        code = follow.watch(run)
        now = control.state(run)
        if code == follow.INTERRUPTED or now.state == "CANCELLED":
            raise Cancelled(f"verify-resume: {run.name} was cancelled, so nothing is proved.")
        if now.state != "DRAINED" or not preemptions or _end_of(run) != "drained":
            return now
        preemptions -= 1
        _wait_for_end(run)
        start(run)


def _end_of(run: RunDirectory) -> str:
    ends = [event for event in ledger.read(run.ledger) if event.event == "run_finished"]
    return str(ends[-1].fields["kind"]) if ends else ""


def _wait_for_end(run: RunDirectory) -> None:
    until = time.monotonic() + END_S
    while (living := control.live_process(run)) is not None:
        if time.monotonic() > until:
            raise ConflictError(
                f"verify-resume: {run.name} has drained, and its supervisor (pid {living[0]} on {living[1]}) has not "
                f"ended within {END_S:g} s. See its log: {run.latest}/supervisor.log"
            )
        time.sleep(0.05)
