"""What math, choice and text share: a rule decides, or a language model where one is given."""

from __future__ import annotations

import math

from eval.tasks.kind import Measured, Options, Problem


async def judged(
    options: Options, problem: Problem, response: str, *, by_rule: float | None, found: str | None
) -> Measured:
    """Return the rule's result, or that of the reader, beside which the rule's is kept.

    Args:
        options: With or without a reader.
        problem: The problem.
        response: The response.
        by_rule: 1.0, 0.0, or None if the rule came to no result.
        found: The answer that the rule found.
    """
    rule = math.nan if by_rule is None else by_rule
    if options.reader is None:
        return Measured(parts={"accuracy": rule}, correct=None if by_rule is None else by_rule > 0, extracted=found)
    answer = await options.reader.extract(response)
    choices = tuple(map(str, problem.meta.get("choices") or ()))
    right = None if answer is None else await options.reader.judge(answer, problem.answer, choices)
    value = math.nan if right is None else float(right)
    return Measured(parts={"accuracy": value, "accuracy_by_rule": rule}, correct=right, extracted=answer)


def accepted(problem: Problem) -> tuple[str, ...]:
    """Return every truth that counts."""
    return tuple(map(str, problem.meta.get("answers") or ())) or (problem.answer,)
