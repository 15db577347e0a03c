from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from eval.significance import (
    benjamini_hochberg,
    bootstrap_mean,
    holm,
    mcnemar_exact,
    mean,
    mean_difference,
    paired,
    seed_difference,
    seeds,
    sign_flip,
    wilson,
)

COUNTS = st.integers(0, 60)


@pytest.mark.parametrize(
    ("b", "c", "expected"),
    [
        pytest.param(1, 5, 0.21875, id="Qwen2-VL-7B against its RLVR"),
        pytest.param(2, 4, 0.6875, id="Qwen2.5-VL-7B against its RLVR"),
        pytest.param(2, 10, 0.03857421875, id="Qwen2.5-VL-7B against Perception-R1"),
        pytest.param(0, 0, 1.0, id="no disagreement"),
        pytest.param(3, 3, 1.0, id="a tie is capped at 1"),
        pytest.param(0, 10, 2 / 1024, id="all one way"),
    ],
)
def test_mcnemar_gives_the_published_p_values(b: int, c: int, expected: float) -> None:
    assert mcnemar_exact(b, c) == expected


@given(COUNTS, COUNTS)
def test_mcnemar_equals_statsmodels(b: int, c: int) -> None:
    theirs = 1.0 if b + c == 0 else mcnemar([[0, b], [c, 0]], exact=True).pvalue

    assert mcnemar_exact(b, c) == pytest.approx(theirs, rel=1e-9)


def test_mcnemar_of_thousands_of_disagreements_neither_overflows_nor_vanishes() -> None:
    assert 0 < mcnemar_exact(4_000, 6_000) < 1e-80
    assert mcnemar_exact(5_000, 5_000) == 1.0


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="b=-1, c=2: a count cannot be negative"):
        mcnemar_exact(-1, 2)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95]))
def test_wilson_equals_statsmodels(k_of_n: tuple[int, int], confidence: float) -> None:
    k, n = k_of_n
    low, high = proportion_confint(k, n, alpha=1 - confidence, method="wilson")

    interval = wilson(k, n, confidence)

    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-9)
    assert interval.low <= interval.estimate <= interval.high


def test_nothing_observed_leaves_everything_open() -> None:
    interval = wilson(0, 0)

    assert math.isnan(interval.estimate)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_more_successes_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="k=5 successes of n=4 trials is impossible"):
        wilson(5, 4)


def test_pairing_goes_by_id_and_not_by_order() -> None:
    before = {"a": True, "b": True, "c": False, "d": False, "e": False}
    after = {"e": False, "d": True, "c": True, "b": False, "a": True}

    result = paired(before, after)

    assert (result.n, result.both, result.b, result.c, result.neither) == (5, 1, 1, 2, 1)
    assert (result.before, result.after, result.difference) == (0.4, 0.6, 0.2)
    assert result.p == 1.0


def test_different_problems_are_refused_and_named() -> None:
    before = dict.fromkeys(["a", "b"], True)
    after = dict.fromkeys(["b", "p", "q", "r", "s"], True)

    with pytest.raises(ValueError, match=r"same problems: 1 only before \(a\); 4 only after \(p, q, r, \.\.\.\)\."):
        paired(before, after)


def test_no_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="no problems to compare"):
        paired({}, {})


def test_the_bootstrap_interval_is_that_of_scipy() -> None:
    scores = np.random.default_rng(3).normal(0.2, 1.0, size=80)
    before = {str(i): 0.0 for i in range(80)}
    after = {str(i): float(score) for i, score in enumerate(scores)}

    ours = mean_difference(before, after, seed=1)

    theirs = stats.bootstrap((scores,), np.mean, method="percentile", rng=np.random.default_rng(2))
    assert ours.estimate == pytest.approx(scores.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.015)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.015)


def test_the_same_seed_gives_the_same_interval() -> None:
    before, after = {str(i): i % 3 / 2 for i in range(40)}, {str(i): i % 5 / 4 for i in range(40)}

    assert mean_difference(before, after, seed=7) == mean_difference(before, after, seed=7)


def test_a_missing_score_leaves_its_pair_out() -> None:
    before = {"a": 0.0, "b": math.nan, "c": 1.0, "only before": 1.0}
    after = {"a": 0.5, "b": 1.0, "c": math.nan}

    interval = mean_difference(before, after)

    assert (interval.estimate, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_without_a_complete_pair_nothing_is_claimed() -> None:
    assert math.isnan(mean_difference({"a": math.nan}, {"a": 1.0}).estimate)


def test_the_mean_leaves_missing_values_out_and_counts_the_rest() -> None:
    assert mean([1.0, math.nan, 0.0]) == (0.5, 2)
    assert math.isnan(mean([])[0])


P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@settings(max_examples=25)  # statsmodels takes 70 ms for each
@given(P_VALUES)
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-12, abs=1e-15)


@given(P_VALUES)
def test_benjamini_hochberg_equals_statsmodels(p_values: list[float]) -> None:
    theirs = multipletests(p_values, method="fdr_bh")[1]

    assert benjamini_hochberg(p_values) == pytest.approx(theirs, rel=1e-12, abs=1e-15)


def test_a_single_p_value_needs_no_correction() -> None:
    assert (holm([0.04]), benjamini_hochberg([0.04]), holm([])) == ([0.04], [0.04], [])


def test_what_is_no_p_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.2 is not between 0 and 1"):
        holm([0.1, 1.2])


@given(COUNTS, COUNTS)
def test_flipping_signs_of_right_and_wrong_is_mcnemar(b: int, c: int) -> None:
    assert sign_flip([-1.0] * b + [1.0] * c + [0.0] * 3) == mcnemar_exact(b, c)


@pytest.mark.parametrize(
    "differences",
    [
        pytest.param([0.5, 0.25, 1.0, -0.25, 0.75, 0.5, 0.25], id="quarters"),
        pytest.param([0.3, -0.1, 0.2, 0.1, 0.7, -0.6, 0.25, 0.31], id="any sizes"),
        pytest.param([1 / 3, 2 / 3, 1 / 3, -1 / 3, 1.0, 0.0], id="thirds, with a tie"),
    ],
)
def test_flipping_signs_is_the_share_of_all_patterns_as_far_from_zero(differences: list[float]) -> None:
    patterns = itertools.product((-1, 1), repeat=len(differences))
    sums = [abs(sum(sign * d for sign, d in zip(signs, differences, strict=True))) for signs in patterns]
    exact = sum(one >= abs(sum(differences)) - 1e-9 for one in sums) / len(sums)

    # Four standard errors of 100,000 patterns.
    assert sign_flip(differences) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 100_000) + 1e-5)


def test_flipping_signs_never_gives_zero() -> None:
    assert sign_flip([0.5 + k / 1000 for k in range(200)]) == pytest.approx(1 / 100_001)


def test_without_any_difference_flipping_signs_finds_nothing() -> None:
    assert sign_flip([0.0, math.nan]) == 1.0


@pytest.mark.parametrize("distinct", [pytest.param(2, id="few values"), pytest.param(400, id="many values")])
def test_the_bootstrap_of_few_distinct_values_is_that_of_many(distinct: int) -> None:
    values = [float(k % distinct) / distinct for k in range(400)]

    interval = bootstrap_mean(values)

    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(5))
    assert interval.low == pytest.approx(theirs.confidence_interval.low, abs=0.004)
    assert interval.high == pytest.approx(theirs.confidence_interval.high, abs=0.004)


def test_answers_to_one_problem_are_one_problem() -> None:
    # Eight answers to each of 20 problems that are always right or always wrong are 20 observations, not 160.
    problems = [float(k % 2) for k in range(20)]
    answers = [value for value in problems for _ in range(8)]

    clustered, naive = bootstrap_mean(problems), bootstrap_mean(answers)

    assert clustered.estimate == naive.estimate == 0.5
    assert (clustered.high - clustered.low) / (naive.high - naive.low) == pytest.approx(math.sqrt(8), rel=0.15)


SEEDS = st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda values: np.std(values) > 1e-6)


@given(SEEDS)
def test_the_interval_over_seeds_is_students(values: list[float]) -> None:
    theirs = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)

    found = seeds(values)

    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    assert (found.interval.low, found.interval.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-12)


@given(SEEDS, SEEDS)
def test_the_difference_over_seeds_is_welchs(before: list[float], after: list[float]) -> None:
    theirs = stats.ttest_ind(after, before, equal_var=False).confidence_interval(0.95)

    found = seed_difference(before, after)

    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-12)


def test_one_seed_says_nothing_about_others() -> None:
    one, difference = seeds([0.5]), seed_difference([0.5], [0.7, 0.8])

    assert math.isnan(one.deviation)
    assert math.isnan(one.interval.low)
    assert difference.estimate == pytest.approx(0.25)
    assert math.isnan(difference.high)


def test_seeds_that_agree_leave_no_doubt() -> None:
    found = seed_difference([0.5, 0.5], [0.75, 0.75, 0.75])

    assert (found.low, found.estimate, found.high) == (0.25, 0.25, 0.25)


def test_no_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no value"):
        seeds([])
