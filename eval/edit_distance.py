"""How much two texts resemble each other, character by character."""

from __future__ import annotations

import unicodedata

from rapidfuzz.distance import Levenshtein


def similarity(a: str, b: str, *, faithful: bool = False) -> float:
    r"""Return 1 less the edit distance over the length of the longer text, in ``[0, 1]``.

    Runs of white space count as one space, and those at the ends as nothing: where a line ends is
    not what was read. Characters are Unicode's, so every script counts alike; an accent is part of
    its letter, however it was encoded (NFC). Two empty texts are the same text, 1.

    Args:
        a: A text.
        b: Another; the order does not matter.
        faithful: As published: accents as they were encoded, and two empty texts score 0.

    Source:
        MMR1 (PR1's predecessor), src/open_r1/rewards.py:134-194 at a2f8a03, there with
        ``nltk.edit_distance``, whose results are the same.

    >>> similarity("kitten", "sitting"), similarity("你好 世界", "你好\n\n世界")
    (0.5714285714285714, 1.0)
    """
    a, b = collapsed(a, faithful=faithful), collapsed(b, faithful=faithful)
    if not a and not b:
        return 0.0 if faithful else 1.0
    return 1.0 - Levenshtein.distance(a, b) / max(len(a), len(b))


def collapsed(text: str, *, faithful: bool = False) -> str:
    """Return the text with every run of white space as one space, and none at the ends."""
    words = " ".join(text.split())
    return words if faithful else unicodedata.normalize("NFC", words)
