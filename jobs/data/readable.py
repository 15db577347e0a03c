"""Whether a truth can be earned: the very functions that rewards use read it as an answer."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence

from eval import box_text, choices
from eval.answer_checker import AnswerChecker
from jobs.data import Example
from jobs.data.bar import Advance

NEAR = {"pixel": 0.006, "rel1000": 0.006, "rel1": 0.000006}
"""How far the text of an answer, which is rounded, may lie from the target."""
TIMEOUT_S = 10.0
BRACES = re.compile(r"\\.|[{}]", re.DOTALL)


def faults(examples: Sequence[Example], advance: Advance) -> dict[str, str]:
    """Return, by id, why an answer cannot be right even if a model says it.

    Args:
        examples: With ids of their own.
        advance: Told of every example that is done.
    """
    found: dict[str, str] = {}
    for example in examples:
        if example.kind != "math":
            fault = _fault(example)
            if fault:
                found[example.id] = fault
            advance(1)
    return found | asyncio.run(_maths([example for example in examples if example.kind == "math"], advance))


def _fault(example: Example) -> str:
    match example.kind:
        case "choice":
            return _choice(example)
        case "grounding" | "detection":
            return _boxes(example)
        case "counting":
            return _count(example)
        case _:
            return "" if example.answer.strip() else "The answer is empty."


def _choice(example: Example) -> str:
    options = tuple(map(str, example.meta.get("choices") or ()))
    truth = example.answer.strip().strip("$").upper()
    if choices.letter(truth, options) == truth:
        return ""
    return f"The answer {example.answer!r:.80} is no letter of {len(options) or 'ten'} options."


def _boxes(example: Example) -> str:
    target = example.target
    if target is None:
        return f"A problem of kind {example.kind!r} needs a target, and has none."
    if example.kind == "grounding":
        read = [*box_text.boxes(example.answer)][:1]
        labels: tuple[str, ...] = ()
        wanted = target.boxes[:1]
        if len(target.boxes) != 1:
            return f"Grounding has one true box, got {len(target.boxes)}."
    else:
        items = box_text.labelled(example.answer).items
        read, labels, wanted = [box for _, box in items], tuple(label for label, _ in items), target.boxes
        if len(target.labels) != len(target.boxes):
            return f"There are {len(target.labels)} labels for {len(target.boxes)} boxes."
    near = NEAR[target.space.system]
    same = len(read) == len(wanted) and all(
        abs(a - b) <= near for one, other in zip(read, wanted, strict=True) for a, b in zip(one, other, strict=True)
    )
    if same and labels == target.labels:
        return ""
    return f"The answer {example.answer!r:.80} does not say the target's {len(wanted)} box(es)."


def _count(example: Example) -> str:
    if example.target is None:
        return "A problem of kind 'counting' needs a target, and has none."
    if example.answer.strip() != str(example.target.number):
        return f"The answer {example.answer!r:.80} is not the target's number, {example.target.number}."
    return ""


def _balanced(text: str) -> bool:
    """Return whether every brace of LaTeX that is opened is closed; escaped ones are signs of a set."""
    depth = 0
    for mark in BRACES.findall(text):
        depth += {"{": 1, "}": -1}.get(mark, 0)
        if depth < 0:
            return False
    return depth == 0


async def _maths(examples: Sequence[Example], advance: Advance) -> dict[str, str]:
    """Return the answers that math-verify does not find equal to themselves. Each is compared once.

    What it cannot read it compares as a text, so that LaTeX with a brace too few equals itself, and
    no answer that a model would write. Braces are therefore counted here.
    """
    by_answer: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for example in examples:
        if _balanced(example.answer):
            by_answer.setdefault(example.answer, []).append(example.id)
        else:
            found[example.id] = (
                f"The answer {example.answer!r:.80} has braces that do not match; no response can earn it."
            )
            advance(1)
    with AnswerChecker(processes=len(os.sched_getaffinity(0)), timeout_s=TIMEOUT_S) as checker:

        async def compare(answer: str, ids: Sequence[str]) -> None:
            right = await checker.check(answer, answer)
            if right != 1.0:
                why = f"took over {TIMEOUT_S:.0f} s" if right is None else "is not read as anything that equals itself"
                found.update(dict.fromkeys(ids, f"The answer {answer!r:.80} {why}; no response can earn it."))
            advance(len(ids))

        await asyncio.gather(*(compare(answer, ids) for answer, ids in by_answer.items()))
    return found
