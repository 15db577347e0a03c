"""The repetition penalty. Perception-R1's measured pairs are in tests/jobs/rewards/test_seed_cases.py."""

from __future__ import annotations

import math

import pytest

from eval.repetition import penalty


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a b a b c", -0.5, id="one of four bigrams occurred before"),
        pytest.param("a A a", -1.0, id="case does not count"),
        pytest.param("a\n\tb  c", 0.0, id="nothing repeats"),
        pytest.param("a", 0.0, id="too short"),
        pytest.param("", 0.0, id="nothing"),
    ],
)
def test_penalty_of_bigrams(text: str, expected: float) -> None:
    assert penalty(text, ngram=2, max_penalty=-2.0) == expected


def test_no_repetition_is_zero_without_a_sign() -> None:
    assert math.copysign(1.0, penalty("a b", ngram=2)) == 1.0


def test_an_ngram_of_no_words_is_refused() -> None:
    with pytest.raises(ValueError, match="ngram: 0 words make no n-gram"):
        penalty("a b", ngram=0)
