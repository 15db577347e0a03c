"""What the tiny extractor learns: a question, a solution, and the facts that the solution states.

The facts follow from the finished solution, not from how it was made: a claim "red circles=three" is the fact
"red circles:three", in the order of the claims. Where a solution claims nothing, there is no fact.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.construct import prompts
from jobs.data import synthetic

TEMPLATE: prompts.Template = "compact"
NUMBER_MAX = 9
CLAIM = re.compile(rf"(?<!\w)({'|'.join(synthetic.KINDS)})=({'|'.join(synthetic.WORDS)})(?!\w)")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One question to the extractor, and the right reply.

    Attributes:
        question: The problem's text.
        response: A solution, right or wrong.
    """

    question: str
    response: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        return prompts.extract(self.question, self.response, TEMPLATE)

    @property
    def reply(self) -> str:
        return prompts.numbered(stated(self.response)) or "<info1>none</info1>"


def stated(response: str) -> list[str]:
    """Return the facts that a solution states, in its order.

    >>> stated("<think>\\nred circles=three\\nblue squares=one\\nthree+one=4\\n</think>")
    ['red circles:three', 'blue squares:one']
    """
    return [f"{kind}:{number}" for kind, number in CLAIM.findall(response)]


def cases(split: str, number: int, *, seed: int) -> list[Case]:
    """Return ``number`` cases. Splits share no generator; a longer list begins with the shorter one."""
    return [_case(random.Random(f"{seed}/extractor-{split}/{position}")) for position in range(number)]


def words(of: Sequence[Case]) -> list[str]:
    """Return the texts from which the vocabulary is made."""
    return [text for case in of for text in (case.question, case.response, case.reply)]


def _case(generator: random.Random) -> Case:
    kinds = generator.sample(synthetic.KINDS, generator.choices((1, 2, 3), (1, 4, 1))[0])
    asked = sorted(kinds, key=synthetic.KINDS.index)
    claims = [(kind, generator.randint(1, NUMBER_MAX)) for kind in asked if generator.random() < 0.95]
    total = sum(number for _, number in claims)
    response = synthetic.response(claims, max(0, total + generator.choice((0, 0, 0, -1, 1))))
    return Case(question=f"How many {' and '.join(asked)} are there?", response=response)
