"""Visual facts: which were asked about, what the judge said of each, what that is worth.

Facts are one string of numbered tags, ``<info1>text</info1>`` newline ``<info2>text</info2>``; the
judge answers fact K with ``<infoK>1</infoK>`` or ``<infoK>0</infoK>``, with any text around it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

FACT = re.compile(r"<info([1-9]\d*)>(.*?)</info\1>", re.DOTALL)
VERDICT = re.compile(r"<info([1-9]\d*)>([^<>]*)</info\1>")

# Published with the sum's denominator so that no verdict at all divides by something. We keep it, so
# that our numbers equal the published ones digit for digit; it costs a perfect response 1e-6.
EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a judge's reply says.

    Attributes:
        scores: In ``[0, 1]``, one for every fact asked, in the order asked. With ``faithful``, one
            for every tag that the published parser comes to.
        mismatch: The reply's tags are not exactly those asked for.
    """

    scores: tuple[float, ...]
    mismatch: bool

    @property
    def reward(self) -> float:
        """The share of facts that the response states: the sum over ``len(scores) + 1e-6``."""
        return sum(self.scores) / (len(self.scores) + EPSILON)


def numbered(visual_key_info: str | None) -> dict[int, str]:
    """Return the facts by number, in the order written; of a number used twice the first counts.

    A text without any tag is one fact, number 1. None, empty or blank text holds no fact.

    >>> numbered("<info1>AB = 5</info1><info2>B is a right angle</info2>")
    {1: 'AB = 5', 2: 'B is a right angle'}
    """
    if not visual_key_info or not visual_key_info.strip():
        return {}
    facts: dict[int, str] = {}
    for number, text in FACT.findall(visual_key_info):
        facts.setdefault(int(number), text.strip())
    return facts or {1: visual_key_info.strip()}


def read(reply: str | None, asked: Sequence[int], *, faithful: bool = False) -> Reading | None:
    """Return what the judge said of every fact asked, or None if the reply is no verdict.

    - The denominator is the number of facts *asked*. The published code divides by the tags
      *returned*, so that a reply cut short could earn more than a whole one.
    - A fact whose tag is absent, empty or holds words is not confirmed: it scores 0, and the reading
      is marked. A gap in the numbering ends nothing.
    - Of several tags with one number the last counts, as published: a judge that thinks aloud ends
      with its verdict.
    - Tags for facts nobody asked about are ignored, and the reading is marked.
    - A finite number outside ``[0, 1]`` is clamped, and fractions count, as published.
    - ``nan`` or ``inf`` in a tag makes the whole reply no verdict; so does a reply without any tag.
      The caller asks again, and in the end scores the row as missing: nobody earns or loses by a
      judge's breakdown. Published: ``nan`` and ``inf`` earn 1, no tag earns 0.

    Args:
        reply: The judge's text; None where the server sent none.
        asked: The numbers of the facts, at least one.
        faithful: Read as the published code does, to which every reply is a verdict, even none.

    Source:
        Perception-R1, verl/utils/reward_score/math_with_visual.py:98-119 and 198 at c47eaf2.

    >>> read("<info1>1</info1> <info3>1</info3>", [1, 2, 3])
    Reading(scores=(1.0, 0.0, 1.0), mismatch=True)
    """
    if faithful:
        return _read_as_published(reply or "", asked)
    if reply is None:
        return None
    said = {int(number): _number(text) for number, text in VERDICT.findall(reply)}
    values = {number: value for number, value in said.items() if value is not None}
    if not said or not all(map(math.isfinite, values.values())):
        return None
    scores = tuple(min(1.0, max(0.0, values.get(number, 0.0))) for number in asked)
    return Reading(scores=scores, mismatch=not set(values) == set(said) == set(asked))


def _read_as_published(reply: str, asked: Sequence[int]) -> Reading:
    scores: list[float] = []
    # The greedy prefix finds the last tag of each number; the first number without one ends it.
    while match := re.search(rf".*<info{len(scores) + 1}>(.+?)</info{len(scores) + 1}>", reply, re.DOTALL):
        # In this order of arguments a NaN becomes 1, as published.
        scores.append(max(0.0, min(1.0, _number(match.group(1)) or 0.0)))
    return Reading(scores=tuple(scores), mismatch=len(scores) != len(asked))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
