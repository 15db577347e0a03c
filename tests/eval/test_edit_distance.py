"""Likeness of texts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.edit_distance import similarity
from tests.eval import garbage


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param("hello world", "hello world", 1.0, id="same"),
        pytest.param("hello  world \n", "hello world", 1.0, id="white space is not what was read"),
        pytest.param("", "hello", 0.0, id="nothing read"),
        pytest.param("kitten", "sitting", 4 / 7, id="three edits of seven"),
        pytest.param("你好世界", "你好", 0.5, id="characters of any script"),
        pytest.param("🙂a", "🙂b", 0.5, id="beyond the basic plane"),
        pytest.param("Cafe\u0301", "Caf\u00e9", 1.0, id="an accent belongs to its letter"),
        pytest.param("ΑΒΓ", "ABΓ", 1 / 3, id="letters that look alike are not"),
        pytest.param("", "", 1.0, id="both empty"),
        pytest.param(" \n", "", 1.0, id="white space is empty"),
    ],
)
def test_similarity(a: str, b: str, expected: float) -> None:
    assert similarity(a, b) == pytest.approx(expected)


def test_published_texts_are_compared_as_they_were_encoded_and_empty_ones_are_nothing() -> None:
    assert similarity("Cafe\u0301", "Caf\u00e9", faithful=True) == pytest.approx(0.6)
    assert similarity("", "", faithful=True) == 0.0


@given(a=garbage.texts | st.text(), b=garbage.texts | st.text())
def test_similarity_is_bounded_and_symmetric(a: str, b: str) -> None:
    assert 0.0 <= similarity(a, b) <= 1.0
    assert similarity(a, b) == similarity(b, a)
    assert similarity(a, a) == 1.0


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(a=st.text(alphabet="ab 你", max_size=30), b=st.text(alphabet="ab 你", max_size=30))
def test_distances_are_those_of_nltk(a: str, b: str) -> None:
    nltk = pytest.importorskip("nltk")
    one, other = " ".join(a.split()), " ".join(b.split())
    longer = max(len(one), len(other))
    if longer:
        assert similarity(a, b, faithful=True) == pytest.approx(1 - nltk.edit_distance(one, other) / longer)


@given(text=st.text(alphabet="abc", min_size=1, max_size=20), seed=st.integers())
def test_one_letter_changed_is_one_edit(text: str, seed: int) -> None:
    place = random.Random(seed).randrange(len(text))

    assert similarity(f"{text[:place]}d{text[place + 1 :]}", text) == pytest.approx(1 - 1 / len(text))
