"""Pairs of predictions and truths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.matching import pairs


@given(st.integers(0, 4), st.integers(0, 4), st.randoms(use_true_random=False))
def test_no_other_pairs_cost_less(predicted: int, true: int, random: object) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    cost_PG = rng.random((predicted, true))

    rows, columns = pairs(cost_PG)

    fewer, more = sorted((predicted, true))
    turned = cost_PG if predicted <= true else cost_PG.T
    best = min(
        sum(turned[place, other] for place, other in enumerate(order))
        for order in itertools.permutations(range(more), fewer)
    )
    assert len(rows) == len(set(rows)) == len(set(columns)) == fewer
    assert cost_PG[rows, columns].sum() == pytest.approx(best)


def test_in_order_pairs_the_first_with_the_first() -> None:
    rows, columns = pairs(np.array([[9.0, 1.0], [1.0, 9.0], [0.0, 0.0]]), "in_order")

    assert (rows.tolist(), columns.tolist()) == ([0, 1], [0, 1])


@pytest.mark.parametrize("worst", [np.nan, np.inf])
def test_a_cost_that_is_no_number_is_the_last_to_be_taken(worst: float) -> None:
    rows, columns = pairs(np.array([[worst, 1.0], [1.0, worst]]))

    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])
