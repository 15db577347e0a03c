"""Overlap of boxes."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.iou import areas, generalised, matrix
from eval.target import Box
from tests.eval.garbage import anywhere, boxes

UNIT = (0.0, 0.0, 1.0, 1.0)
ANY_BOX = st.tuples(anywhere, anywhere, anywhere, anywhere)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param((0, 0, 2, 2), (0, 0, 2, 2), 1.0, id="same box"),
        pytest.param((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3, id="half shifted"),
        pytest.param((0, 0, 1, 1), (5, 5, 6, 6), 0.0, id="apart"),
        pytest.param((0, 0, 1, 1), (1, 0, 2, 1), 0.0, id="edge to edge"),
        pytest.param((0, 0, 4, 4), (1, 1, 3, 3), 0.25, id="inside"),
        pytest.param((1, 1, 1, 1), (1, 1, 1, 1), 0.0, id="empty box earns nothing"),
        pytest.param((500, 100, 100, 300), (100, 100, 500, 300), 0.0, id="turned inside out"),
        pytest.param((500, 300, 100, 100), (100, 100, 500, 300), 0.0, id="turned about both axes"),
        pytest.param((0, 0, math.nan, 1), UNIT, 0.0, id="no number"),
        pytest.param((0, 0, math.inf, 1), UNIT, 0.0, id="infinite"),
        pytest.param((-1e308, -1e308, 1e308, 1e308), UNIT, 0.0, id="area beyond floats"),
    ],
)
def test_the_overlap_of_two_boxes(a: Box, b: Box, expected: float) -> None:
    assert matrix(a, b).item() == pytest.approx(expected)


def test_every_box_meets_every_other() -> None:
    overlaps = matrix([[0, 0, 2, 2], [5, 5, 6, 6]], [[0, 0, 2, 2], [0, 0, 1, 2], [5, 5, 6, 6]])

    assert overlaps == pytest.approx(np.array([[1, 0.5, 0], [0, 0, 1]]))


def test_no_box_meets_nothing() -> None:
    assert matrix([], [UNIT]).shape == (0, 1)
    assert generalised([UNIT], []).shape == (1, 0)


@given(a=st.lists(ANY_BOX | boxes(), max_size=4), b=st.lists(ANY_BOX | boxes(), max_size=4))
def test_overlaps_are_bounded_and_symmetric_for_any_numbers(a: list[Box], b: list[Box]) -> None:
    for score, low in ((matrix, 0.0), (generalised, -1.0)):
        ours, theirs = score(a, b), score(b, a)

        assert np.array_equal(ours, theirs.T)
        assert ((ours >= low) & (ours <= 1.0)).all()


@given(box=boxes())
def test_a_box_is_itself(box: Box) -> None:
    assert matrix(box, box).item() == 1.0
    assert generalised(box, box).item() == 1.0


@given(given=st.lists(boxes(), min_size=1, max_size=6), seed=st.integers())
def test_the_order_of_boxes_is_the_order_of_overlaps(given: list[Box], seed: int) -> None:
    order = random.Random(seed).sample(range(len(given)), len(given))

    assert np.array_equal(matrix([given[place] for place in order], given), matrix(given, given)[order])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(UNIT, UNIT, 1.0, id="same box"),
        pytest.param(UNIT, (1, 0, 2, 1), 0.0, id="side by side, nothing between"),
        pytest.param(UNIT, (3, 0, 4, 1), -0.5, id="half of what is around both is empty"),
        pytest.param((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7 - 2 / 9, id="shifted"),
        pytest.param((1, 1, 0, 0), UNIT, -1.0, id="no box"),
    ],
)
def test_the_generalised_overlap_of_two_boxes(a: Box, b: Box, expected: float) -> None:
    assert generalised(a, b).item() == pytest.approx(expected)


@given(a=boxes(), b=boxes())
def test_the_generalised_overlap_never_exceeds_the_overlap(a: Box, b: Box) -> None:
    assert generalised(a, b).item() <= matrix(a, b).item() + 1e-12


def test_areas_of_what_is_no_box_are_zero() -> None:
    assert areas([[0, 0, 2, 3], [2, 0, 0, 3], [0, 0, 0, 3]]).tolist() == [6.0, 0.0, 0.0]


def test_a_published_epsilon_makes_a_half_less_than_a_half() -> None:
    half = (100, 100, 300, 300), (100, 100, 500, 300)

    assert matrix(*half).item() == 0.5
    assert 0.5 - 1e-12 < matrix(*half, epsilon=1e-10).item() < 0.5
