"""Mathematical answers: equality by math-verify, in processes that can be killed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from eval import choices
from eval.answer_checker import AnswerChecker
from eval.tasks import rule
from eval.tasks.kind import Measured, Options, Problem, Row


class Maths:
    """Accuracy of answers that are numbers or formulas."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._checker = AnswerChecker(
            processes=options.checker_processes, timeout_s=options.checker_timeout_s, faithful=options.faithful
        )

    async def measure(self, problem: Problem, response: str) -> Measured:
        """Return whether the answer equals a truth; None if that could not be found out in time.

        Where the source says to how many decimals an answer is asked (MathVista), an answer with more
        is rounded to them, as in the source's own script.
        """
        text = choices.answer_text(response)
        box = choices.boxed(text)
        found = (text if box is None else box).strip() or None
        right = await self._is_right(problem, response)
        if right != 1.0 and not self._options.faithful and _rounds_to(found, problem):
            right = 1.0
        return await rule.judged(self._options, problem, response, by_rule=right, found=found)

    def aggregate(self, rows: Sequence[Row]) -> dict[str, Any]:  # noqa: ARG002
        """Return nothing: accuracy is in the summary."""
        return {}

    async def close(self) -> None:
        """End the checking processes."""
        await asyncio.to_thread(self._checker.close)

    async def _is_right(self, problem: Problem, response: str) -> float | None:
        results = [await self._checker.check(response, truth) for truth in rule.accepted(problem)]
        if 1.0 in results:
            return 1.0
        return None if None in results else 0.0


def _rounds_to(found: str | None, problem: Problem) -> bool:
    decimals = problem.meta.get("precision")
    if decimals is None or found is None:
        return False
    given, truth = _number(found), _number(problem.answer)
    return given is not None and truth is not None and round(given, int(decimals)) == round(truth, int(decimals))


def _number(text: str) -> float | None:
    plain = choices.NUMBER.findall(text)
    return float(plain[0].replace(",", "")) if len(plain) == 1 else None
