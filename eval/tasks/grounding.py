"""Grounding, as on RefCOCO, RefCOCO+ and RefCOCOg: one box for what a text refers to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval import grounding
from eval.significance import mean
from eval.tasks import drawn
from eval.tasks.kind import Measured, Options, Problem, Row

AVERAGED = ("acc@0.5", "acc@0.75", "acc@0.95")
"""What PR1's paper calls Avg is the mean of these."""


class Grounding:
    """Accuracy at five overlaps, mean overlap and whether the middle is inside, by split."""

    def __init__(self, options: Options) -> None:
        self._options = options

    async def measure(self, problem: Problem, response: str) -> Measured:
        """Return how the first box overlaps the true one. It is right from an overlap of 0.5."""
        truth = drawn.target_of(problem)
        found = grounding.score(response, truth, self._options.coordinates, faithful=self._options.faithful)
        parts = found.parts()
        boxes = () if found.box is None else (found.box,)
        return Measured(
            parts=parts,
            correct=parts["acc@0.5"] > 0,
            extracted=None if found.box is None else str(list(found.box)),
            prediction=drawn.prediction(truth, found.system, boxes=boxes),
        )

    def aggregate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the metrics of every split, as shares of 1; published are percent, rounded to two decimals."""
        return {"grounding": {name: _means(of) for name, of in drawn.of_split(rows).items()}}

    async def close(self) -> None:
        """Nothing to let go of."""


def _means(rows: Sequence[Row]) -> dict[str, float | int]:
    names = list(rows[0]["parts"])
    found = {name: mean([row["parts"][name] for row in rows])[0] for name in names}
    return {"n": len(rows), **found, "avg": sum(found[name] for name in AVERAGED) / len(AVERAGED)}
