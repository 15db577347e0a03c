"""Seconds of a GRPO step, ours and TRL's in turn, without a judge and with one; and how much of the judge is hidden.

A judge answers in half the time that TRL takes to sample a step, by the median; TRL, which is measured without a judge
first, sets that time for all. Every side's first step warms up and is left out.

How long judging takes is what it takes if all requests of a step begin at the same time, as TRL's do: the longest of
their latencies. Hidden is the share of it that a step does not take longer than without a judge.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import Figure
from bench.grpo import judge_stub, ours, peer
from bench.grpo.work import Work

STEP, RATIO = "s per step, no judge", "s per step over TRL's, no judge"
JUDGED, JUDGED_RATIO = "s per step, with a judge", "s per step over TRL's, with a judge"
SAMPLING, UPDATE, TOKENS = "s of sampling, no judge", "s of the update, no judge", "tokens of a step"
WAIT, JUDGING, HIDDEN = "s from last token to last verdict", "s that judging takes", "judge time hidden"
TRL = "TRL 1.16"
GOAL, GOAL_HIDDEN = 0.9, 0.85
GOALS_JUDGED = {0: 0.65, 1: 0.5}
JUDGE_SHARE = 0.5

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One way to run ours.

    Attributes:
        staleness: 1 samples a step while the one before it is judged and trained on.
        ray: Engine and policy are a process each.
    """

    staleness: int
    ray: bool

    @property
    def name(self) -> str:
        """In words, for the table."""
        return f"ours, staleness {self.staleness}, {'Ray' if self.ray else 'one process'}"

    @property
    def changes(self) -> dict[str, Any]:
        """To the settings."""
        return {"algorithm": {"staleness": self.staleness}, "ray": self.ray}


class Book:
    """What was measured, by quantity and side, one value a round."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], list[float]] = {}

    def note(self, what: str, who: str, steps: Sequence[float]) -> None:
        """Add the median over the steps of one measurement."""
        self.values.setdefault((what, who), []).append(statistics.median(steps))

    def of(self, what: str, who: str) -> list[float]:
        """Return the values of all rounds."""
        return self.values.get((what, who), [])


def measure(
    work: Work,
    python: Path | None,
    repeats: int,
    say: Say,
    *,
    sides: Sequence[Side],
    judge_s: float | None = None,
) -> list[Figure]:
    """Return all figures of steps.

    Args:
        work: To be done.
        python: Of the environment with TRL; without it only ours is measured.
        repeats: Rounds; in each every side is measured once.
        say: Told what is being done.
        sides: The ways to run ours.
        judge_s: Median latency of the judge; None is half of the time of sampling.
    """
    book = Book()
    for number in range(1, repeats + 1):
        say(f"round {number} of {repeats}, no judge")
        if python is not None:
            _trl(work, python, book)
        for side in sides:
            say(f"  {side.name}")
            _ours(work, side, book)
    median_s = judge_s or JUDGE_SHARE * statistics.median(book.of(SAMPLING, TRL if python else sides[0].name))
    for number in range(1, repeats + 1):
        say(f"round {number} of {repeats}, a judge of {median_s:.2f} s")
        if python is not None:
            _trl_judged(work, python, book, median_s)
        for side in sides:
            say(f"  {side.name}")
            _ours_judged(work, side, book, median_s)
    return figures(book, sides, judge_stub.judge_s(median_s, work.rows, work.size.steps), median_s)


def figures(book: Book, sides: Sequence[Side], judging_s: float, median_s: float) -> list[Figure]:
    """Return the table's figures: ratios to TRL of the same round, what is hidden, and what they come from."""
    found: list[Figure] = []
    for side in sides:
        found.append(_ratio(book, STEP, RATIO, side.name, GOAL if side.staleness == 0 else None))
        found.append(_ratio(book, JUDGED, JUDGED_RATIO, side.name, GOALS_JUDGED[side.staleness]))
        goal = GOAL_HIDDEN if side.staleness else None
        found.append(_hidden(book, side.name, judging_s, goal))
    found.append(_hidden(book, TRL, judging_s, None))
    found.append(Figure(what=JUDGING, who="the judge", values=[judging_s], note=f"its median is {median_s:.2f} s"))
    return found + [Figure(what=what, who=who, values=values) for (what, who), values in book.values.items()]


def _ratio(book: Book, what: str, ratio: str, who: str, goal: float | None) -> Figure:
    theirs = book.of(what, TRL)
    if not theirs:
        return Figure(what=ratio, who=who, note="TRL was not measured")
    pairs = zip(book.of(what, who), theirs, strict=True)
    return Figure(what=ratio, who=who, values=[mine / other for mine, other in pairs], goal=goal)


def _hidden(book: Book, who: str, judging_s: float, goal: float | None) -> Figure:
    pairs = zip(book.of(JUDGED, who), book.of(STEP, who), strict=True)
    values = [1 - (judged - alone) / judging_s for judged, alone in pairs]
    return Figure(what=HIDDEN, who=who, values=values, goal=goal, bound="at least")


def _trl(work: Work, python: Path, book: Book) -> None:
    steps = peer.run(python, work.problem(work.size.steps), work.folder)[1:]
    book.note(STEP, TRL, [step["step_s"] for step in steps])
    book.note(SAMPLING, TRL, [step["generate_s"] for step in steps])
    book.note(UPDATE, TRL, [step["step_s"] - step["generate_s"] for step in steps])
    book.note(TOKENS, TRL, [step["tokens"] for step in steps])


def _trl_judged(work: Work, python: Path, book: Book, median_s: float) -> None:
    with judge_stub.serving(work.folder, median_s) as judge:
        steps = peer.run(python, work.problem(work.size.steps, judge=judge), work.folder)[1:]
    book.note(JUDGED, TRL, [step["step_s"] for step in steps])
    book.note(WAIT, TRL, [step["reward_s"] for step in steps])


def _ours(work: Work, side: Side, book: Book) -> None:
    lines = ours.fresh(work, ours.settings(work, work.size.steps, **side.changes)).train()
    book.note(STEP, side.name, ours.step_s(lines))
    book.note(SAMPLING, side.name, [line["timing_s/gen"] for line in lines[1:]])
    book.note(UPDATE, side.name, [line["timing_s/update_actor"] for line in lines[1:]])
    book.note(TOKENS, side.name, [line["response_length/mean"] * work.rows for line in lines[1:]])


def _ours_judged(work: Work, side: Side, book: Book, median_s: float) -> None:
    values = ours.settings(work, work.size.steps, judged=True, **side.changes)
    with judge_stub.serving(work.folder, median_s) as judge:
        lines = ours.fresh(work, values, judge=judge).train()
    book.note(JUDGED, side.name, ours.step_s(lines))
    book.note(WAIT, side.name, [line["judge/wait_after_gen_s"] for line in lines[1:]])
