"""Counting, as on PixMo-Count: how many, said by boxes, points or a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from eval import counting
from eval.significance import mean
from eval.tasks import breakdown, drawn
from eval.tasks.kind import Measured, Options, Problem, Row


class Counting:
    """Exact match, mean absolute and root mean squared error, by split."""

    def __init__(self, options: Options) -> None:
        self._options = options

    async def measure(self, problem: Problem, response: str) -> Measured:
        """Return whether the number is right.

        A response that says no number is never right, not even where there is nothing to count (so
        published); its error is as if it had said 0.
        """
        truth = drawn.target_of(problem)
        found = counting.score(response, truth, self._options.coordinates, faithful=self._options.faithful)
        return Measured(
            parts={**found.parts(), "error": float(abs((found.predicted or 0) - found.true))},
            correct=found.exact,
            extracted=None if found.predicted is None else str(found.predicted),
            prediction=drawn.prediction(truth, "rel1000", points=found.points, count=found.predicted),
        )

    def aggregate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the metrics of every split, and the mean accuracy of splits, which is what PR1 prints."""
        splits = {name: _errors(of) for name, of in drawn.of_split(rows).items()}
        average = sum(split["accuracy"] for split in splits.values()) / len(splits)
        return {"counting": {"splits": splits, "average_accuracy": average}}

    async def close(self) -> None:
        """Nothing to let go of."""


def _errors(rows: Sequence[Row]) -> dict[str, Any]:
    errors = [float(row["parts"]["error"]) for row in rows]
    return {
        **breakdown.share([row["correct"] for row in rows]),
        "mae": mean(errors)[0],
        "rmse": math.sqrt(mean([error * error for error in errors])[0]),
        "unanswered": sum(row["extracted"] is None for row in rows),
    }
