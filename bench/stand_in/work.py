"""The trainer's loop: ask the judge, take a while, commit, and save and end when asked to."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from bench.stand_in import marks

DRAINED = 75


def hear(folder: Path, numbers: tuple[int, ...] = (signal.SIGTERM, signal.SIGUSR2)) -> list[int]:
    """Note signals from now on, in the marks and in the list that is returned; handlers of others still run."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        marks.write(folder, "signal", number=number)
        asked.append(number)
        before = earlier[number]
        if callable(before):
            before(number, frame)

    earlier = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, note)
    return asked


def train(
    folder: Path,
    *,
    steps: int,
    step_s: float,
    ask: Callable[[], str],
    asked: list[int],
    commit: Callable[[int], bool] = lambda _step: True,
) -> int:
    """Work from the newest committed step on, and return the exit code.

    Args:
        folder: Where the marks are.
        steps: How many there are in all.
        step_s: Seconds of work in each, the wait for the judge apart.
        ask: Returns the name of the judge that answered.
        asked: Filled by a signal; the step under way is still committed.
        commit: Told of a step before it counts; False: somebody else has taken over.
    """
    marks.write(folder, "started")
    for step in range(marks.newest_step(folder) + 1, steps + 1):
        began = time.time()
        judge = ask()
        time.sleep(step_s)
        if not commit(step):
            return 3
        marks.write(folder, "step", step=step, judge=judge, took_s=time.time() - began, samples=marks.samples(step))
        if asked:
            return DRAINED
    return 0
