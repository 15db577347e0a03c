"""The reward ``accuracy``: 1 if the answer is right, 0 if not, missing if that could not be found out."""

from __future__ import annotations

from eval.answer_checker import AnswerChecker
from jobs.rewards.part import MISSING, Example, Part, Surroundings
from jobs.rewards.settings import Accuracy


class AccuracyReward:
    """Compares answers in processes of its own, see ``eval.answers.correct`` for what is right.

    Published, a comparison that failed or took too long earned 0. Here it is missing and counted:
    the policy is not taught that a hard but right expression is wrong.
    """

    def __init__(self, settings: Accuracy, surroundings: Surroundings) -> None:
        self._checker = AnswerChecker(
            processes=settings.processes, timeout_s=settings.timeout_s, faithful=surroundings.faithful
        )
        self._failures_taken = 0

    async def __call__(self, example: Example, response: str) -> Part:
        result = await self._checker.check(response, example.answer)
        return MISSING if result is None else Part(value=result)

    def metrics(self) -> dict[str, float]:
        """Return ``accuracy/unchecked``: comparisons without a result since the last call."""
        failures = self._checker.failures
        since, self._failures_taken = failures - self._failures_taken, failures
        return {"accuracy/unchecked": float(since)}

    async def close(self) -> None:
        self._checker.close()
