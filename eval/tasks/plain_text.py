"""Short texts: equal after what nobody means by another spelling is taken away."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from eval import choices
from eval.tasks import rule
from eval.tasks.kind import Measured, Options, Problem, Row

ARTICLE = re.compile(r"^(?:an?|the)\s+")


class PlainText:
    """Accuracy of answers that are words."""

    def __init__(self, options: Options) -> None:
        self._options = options

    async def measure(self, problem: Problem, response: str) -> Measured:
        """Return whether the answer is one of the truths, word for word."""
        text = choices.answer_text(response)
        box = choices.boxed(text)
        found = (text if box is None else box).strip() or None
        right = found is not None and normal(found) in {normal(truth) for truth in rule.accepted(problem)}
        return await rule.judged(self._options, problem, response, by_rule=float(right), found=found)

    def aggregate(self, rows: Sequence[Row]) -> dict[str, Any]:  # noqa: ARG002
        """Return nothing: accuracy is in the summary."""
        return {}

    async def close(self) -> None:
        """Nothing to let go of."""


def normal(text: str) -> str:
    r"""Return a text without case, outer punctuation, doubled spaces, LaTeX's text commands and article.

    Numbers keep their form, except that thousands have no comma and trailing zeros go.

    >>> normal(r"  The \text{Eiffel  Tower}. "), normal("1,200.50")
    ('eiffel tower', '1200.5')
    """
    plain = choices.COMMAND.sub(r"\1", text).replace("$", "")
    words = " ".join(unicodedata.normalize("NFKC", plain).casefold().split()).strip(" .,;:!?\"'`()[]{}")
    if choices.NUMBER.fullmatch(words):
        number = float(words.replace(",", ""))
        return str(int(number)) if number.is_integer() else str(number)
    return ARTICLE.sub("", words)
