"""How much a text repeats itself."""

from __future__ import annotations


def penalty(text: str, *, ngram: int = 20, max_penalty: float = -2.0) -> float:
    """Return ``max_penalty`` times the share of n-grams that occurred before.

    Words are what stands between white space, in lower case; a text with fewer than ``ngram`` words
    has no n-gram and is not punished. ``max_penalty`` itself is approached, never reached, since the
    first n-gram is always new.

    Args:
        text: The whole response, thinking and answer.
        ngram: Words in one n-gram, at least 1.
        max_penalty: At most 0.

    Raises:
        ValueError: ``ngram`` is less than 1.

    Source:
        Perception-R1, verl/workers/reward/custom.py:128-144 at c47eaf2, after Yeo et al.,
        "Demystifying Long Chain-of-Thought Reasoning in LLMs", 2025. Where nothing repeats the
        published code returns -0.0; we return 0.0.

    >>> penalty("a b a b c", ngram=2)
    -0.5
    """
    if ngram < 1:
        raise ValueError(f"ngram: {ngram} words make no n-gram. Use at least 1.")
    words = text.lower().split()
    total = len(words) - ngram + 1
    if total < 1:
        return 0.0
    unique = len({tuple(words[start : start + ngram]) for start in range(total)})
    return max_penalty * (1 - unique / total) + 0.0
