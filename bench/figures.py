"""Figures side by side: what was measured of whom, the goal, and the table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Bound = Literal["at most", "at least"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One quantity of one launcher.

    Attributes:
        what: The quantity, with its unit.
        who: The launcher.
        values: As measured, one a repeat. None measured: ``note`` says why.
        goal: What ours is to reach; None for peers.
        bound: On which side of the goal.
        note: What a number alone does not say.
    """

    what: str
    who: str
    values: list[float] = field(default_factory=list)
    goal: float | None = None
    bound: Bound = "at most"
    note: str = ""

    @property
    def median(self) -> float | None:
        """The median; None if nothing was measured."""
        return statistics.median(self.values) if self.values else None

    @property
    def missed(self) -> bool:
        """Whether there is a goal and it is not reached, or was not measured."""
        if self.goal is None:
            return False
        if self.median is None:
            return True
        return self.median > self.goal if self.bound == "at most" else self.median < self.goal

    def to_json(self) -> dict[str, Any]:
        """Return all that is known, the values as they were measured."""
        return {**asdict(self), "median": self.median, "missed": self.missed}


def table(figures: Sequence[Figure]) -> list[str]:
    """Return the lines of a Markdown table, figures of one quantity together."""
    lines = ["| | | median | lowest - highest (n) | goal | |", "|---|---|---|---|---|---|"]
    for what in dict.fromkeys(figure.what for figure in figures):
        for figure in (each for each in figures if each.what == what):
            lines.append(f"| {what} | {figure.who} | {_numbers(figure)} | {_goal(figure)} | {figure.note} |")
    return lines


def _numbers(figure: Figure) -> str:
    if figure.median is None:
        return "not measured | "
    return f"{figure.median:.3g} | {min(figure.values):.3g} - {max(figure.values):.3g} ({len(figure.values)})"


def _goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    return f"{figure.bound} {figure.goal:g}, {'missed' if figure.missed else 'reached'}"
