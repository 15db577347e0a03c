"""Multiple choice: the letter that was chosen is the letter that is true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval import choices, wemath
from eval.tasks import rule
from eval.tasks.kind import Measured, Options, Problem, Row


class Choice:
    """Accuracy over letters; of WeMath also its scores over groups of problems."""

    def __init__(self, options: Options) -> None:
        self._options = options

    async def measure(self, problem: Problem, response: str) -> Measured:
        """Return whether the response chose the true option. Choosing none is wrong."""
        found = choices.letter(response, tuple(map(str, problem.meta.get("choices") or ())))
        truth = problem.answer.strip().strip("$").upper()
        return await rule.judged(self._options, problem, response, by_rule=float(found == truth), found=found)

    def aggregate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return WeMath's scores if the rows are WeMath's."""
        groups = [row for row in rows if (row.get("meta") or {}).get("wemath")]
        return {"wemath": wemath.scores([wemath.Step.of(row) for row in groups]).to_json()} if groups else {}

    async def close(self) -> None:
        """Nothing to let go of."""
