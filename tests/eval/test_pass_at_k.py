from __future__ import annotations

import itertools
import math

import pytest

from eval import pass_at_k


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_all_draws_with_a_right_answer(n: int) -> None:
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = list(itertools.combinations([1] * c + [0] * (n - c), k))

        assert pass_at_k.pass_at_k(n, c, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))


def test_pass_at_one_is_the_share_of_right_answers() -> None:
    assert pass_at_k.pass_at_k(8, 3, 1) == 0.375


def test_thousands_of_answers_do_not_overflow() -> None:
    assert pass_at_k.pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "c", "k"), [(2, 3, 1), (2, -1, 1), (2, 1, 3), (2, 1, 0)])
def test_what_is_impossible_is_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"n={n}, c={c}, k={k} is impossible"):
        pass_at_k.pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("fewest", "expected"),
    [
        pytest.param(1, [1], id="one answer"),
        pytest.param(8, [1, 2, 4, 8], id="a power of two"),
        pytest.param(6, [1, 2, 4, 6], id="no power of two"),
    ],
)
def test_named_are_the_powers_of_two_and_the_fewest_answers(fewest: int, expected: list[int]) -> None:
    assert pass_at_k.steps({"a": (fewest, 0), "b": (9, 1)}) == expected
    assert pass_at_k.steps({}) == []


def test_a_problem_with_too_few_answers_is_left_out_of_the_mean() -> None:
    counts = {"a": (4, 2), "b": (1, 1)}

    assert math.isnan(pass_at_k.per_problem(counts, 2)["b"])
    assert pass_at_k.estimate(counts, 2).estimate == pytest.approx(5 / 6)
