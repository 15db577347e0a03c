"""Which of thousands of rollouts a person should look at.

A page of a few dozen must show where training began, where it ended, what earned most and least,
and what the judge failed on. The log is read once and only the chosen lines are read again, so a
log larger than memory is no trouble.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.record import Row, json_lines, number, row_at

FIRST, LAST, BEST, WORST, MISSING, BETWEEN = (
    "first step",
    "last step",
    "best",
    "worst",
    "no verdict",
    "along the way",
)
SHARES = {MISSING: 6, FIRST: 8, LAST: 10, BEST: 8, WORST: 6, BETWEEN: 10}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What is needed of one rollout to choose it.

    Attributes:
        position: Where its line begins in the log, bytes.
        step: The step it was made in.
        example: The problem's id.
        total: Its reward; NaN if it has none.
        missing: Whether some reward part has no value.
    """

    position: int
    step: int
    example: str
    total: float
    missing: bool


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A rollout to show and the reasons for it."""

    reasons: tuple[str, ...]
    row: Row


def choose(log: Path) -> tuple[list[Chosen], int]:
    """Return at most 48 rollouts in the order of steps, and how many there were to choose from.

    A rollout that a restarted trainer made again is there once, as it was made last.
    """
    entries = _entries(log)
    reasons: dict[int, list[str]] = {}
    for reason, candidates in _candidates(entries).items():
        for entry in candidates:
            reasons.setdefault(entry.position, []).append(reason)
    by_position = {entry.position: entry for entry in entries}
    order = sorted(reasons, key=lambda position: (by_position[position].step, position))
    rows = row_at(log, order) if order else []
    chosen = [Chosen(reasons=tuple(reasons[p]), row=row) for p, row in zip(order, rows, strict=True)]
    return chosen, len(entries)


def _entries(log: Path) -> list[Entry]:
    latest: dict[tuple[int, str, int], Entry] = {}
    for position, row in json_lines(log):
        step, example = int(row.get("step", 0)), str(row.get("id", ""))
        rewards = row.get("rewards") or {}
        latest[step, example, int(row.get("sample", 0))] = Entry(
            position=position,
            step=step,
            example=example,
            total=number(row.get("total")),
            missing=any(value is None for value in rewards.values()),
        )
    return list(latest.values())


def _candidates(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    if not entries:
        return {}
    first, last = min(e.step for e in entries), max(e.step for e in entries)
    scored = [entry for entry in entries if not math.isnan(entry.total)]
    between = [e for e in entries if first < e.step < last]
    return {
        MISSING: _spread((e for e in entries if e.missing), SHARES[MISSING], key=lambda e: e.step),
        FIRST: _spread((e for e in entries if e.step == first), SHARES[FIRST], key=lambda e: e.position),
        LAST: _spread((e for e in entries if e.step == last), SHARES[LAST], key=lambda e: e.position),
        BEST: _spread(scored, SHARES[BEST], key=lambda e: (-e.total, -e.step)),
        WORST: _spread(scored, SHARES[WORST], key=lambda e: (e.total, -e.step)),
        BETWEEN: _evenly(between, SHARES[BETWEEN]),
    }


def _spread(entries: Iterable[Entry], count: int, key: Callable[[Entry], object]) -> list[Entry]:
    """Return the first ``count`` by ``key``, each problem once before any problem twice."""
    turns: dict[str, int] = {}
    ranked = []
    for rank, entry in enumerate(sorted(entries, key=key)):  # type: ignore[arg-type]
        turn = turns[entry.example] = turns.get(entry.example, -1) + 1
        ranked.append((turn, rank, entry))
    return [entry for _, _, entry in sorted(ranked, key=lambda item: item[:2])[:count]]


def _evenly(entries: Sequence[Entry], count: int) -> list[Entry]:
    """Return one rollout of each of ``count`` steps, as far apart as they can be."""
    first_of: dict[int, Entry] = {}
    for entry in entries:
        first_of.setdefault(entry.step, entry)
    in_order = [first_of[step] for step in sorted(first_of)]
    if len(in_order) <= count:
        return in_order
    return [in_order[round(k * (len(in_order) - 1) / (count - 1))] for k in range(count)]
