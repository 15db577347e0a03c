"""How sure we may be that one model is better than another on the same problems.

Two models answer the same problems, so tests here are paired: what counts is the problems on which
they disagree. A problem that was answered several times is one problem, not several: what is drawn
and what is flipped are problems. Pure functions of counts and scores; nothing here knows what a model is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
FLIPS = 100_000
NAMED_IN_ERRORS = 3


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate between two bounds."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two models compared on the same problems.

    Attributes:
        n: Problems that both answered.
        both: Right with both models.
        b: Right before, wrong after.
        c: Wrong before, right after.
        neither: Wrong with both models.
        p: Two-sided p value of McNemar's exact test.
    """

    n: int
    both: int
    b: int
    c: int
    neither: int
    p: float

    @property
    def before(self) -> float:
        """Accuracy of the first model, 0 to 1."""
        return (self.both + self.b) / self.n

    @property
    def after(self) -> float:
        """Accuracy of the second model, 0 to 1."""
        return (self.both + self.c) / self.n

    @property
    def difference(self) -> float:
        """Accuracy gained, -1 to 1."""
        return (self.c - self.b) / self.n


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """One setting trained or sampled with several seeds.

    Attributes:
        values: What each seed gave, in the given order.
        mean: Their mean.
        deviation: Their standard deviation, with ``n - 1``; NaN for a single seed.
        interval: Student's interval of the mean of all seeds there could be; NaN bounds for a single seed.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float
    interval: Interval


def mcnemar_exact(b: int, c: int) -> float:
    """Return the two-sided p value of McNemar's exact test.

    Under the null hypothesis each of the ``b + c`` problems on which two models disagree is a fair
    coin, so the p value is twice the smaller binomial tail, and never above 1. Without any
    disagreement there is no evidence at all, which is 1. Computed in integers, so that it is exact
    for any count.

    Args:
        b: Problems that only the first model solved.
        c: Problems that only the second model solved.

    Raises:
        ValueError: A count is negative.

    Source:
        McNemar, "Note on the sampling error of the difference between correlated proportions or
        percentages", Psychometrika 12, 1947; the exact form of statsmodels' ``mcnemar(exact=True)``.

    >>> mcnemar_exact(1, 5)
    0.21875
    """
    if b < 0 or c < 0:
        raise ValueError(f"mcnemar_exact: b={b}, c={c}: a count cannot be negative.")
    n = b + c
    ways = tail = 1
    for k in range(min(b, c)):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return min(1.0, tail / (1 << n - 1)) if n else 1.0


def wilson(k: int, n: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a share ``k / n``.

    Unlike the textbook interval it stays inside [0, 1] and is honest at 0 and at n. Nothing
    observed says nothing: ``n = 0`` gives the estimate NaN between 0 and 1.

    Raises:
        ValueError: ``k`` is not between 0 and ``n``, or ``confidence`` not between 0 and 1.

    Source:
        Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22,
        1927, without continuity correction.
    """
    if not 0 <= k <= n:
        raise ValueError(f"wilson: k={k} successes of n={n} trials is impossible. Give 0 <= k <= n.")
    if n == 0:
        return Interval(estimate=math.nan, low=0.0, high=1.0)
    z = _z(confidence)
    share, shrink = k / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if k == 0 else centre - half
    high = 1.0 if k == n else centre + half
    return Interval(estimate=share, low=low, high=high)


def paired(before: Mapping[str, bool], after: Mapping[str, bool]) -> Paired:
    """Return the comparison of two models on the same problems, paired by the problems' ids.

    Raises:
        ValueError: The two did not answer exactly the same problems, or none at all. A comparison
            of the rest would hide that one of them stopped early.
    """
    _same_ids(before.keys(), after.keys())
    both = sum(before[name] and after[name] for name in before)
    b = sum(before[name] and not after[name] for name in before)
    c = sum(after[name] and not before[name] for name in before)
    n = len(before)
    return Paired(n=n, both=both, b=b, c=c, neither=n - both - b - c, p=mcnemar_exact(b, c))


def mean_difference(
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the mean of ``after - before`` over problems, with a percentile bootstrap interval.

    Problems are drawn, not scores, so the pairing survives. A problem that has a missing score
    (NaN, or no score at all) with either model is left out of both. Without any complete pair all
    three numbers are NaN; with one the interval is that one difference.

    Args:
        before: Score of every problem with the first model.
        after: Score of every problem with the second model.
        confidence: Share of intervals that shall hold the true difference.
        seed: The same seed gives the same interval.
        resamples: How often the problems are drawn again.

    Source:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    pairs = [(before[name], after[name]) for name in sorted(before.keys() & after.keys())]
    differences = [b - a for a, b in pairs if not (math.isnan(a) or math.isnan(b))]
    return bootstrap_mean(differences, confidence=confidence, seed=seed, resamples=resamples)


def bootstrap_mean(
    values: Sequence[float], *, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Return the mean with a percentile bootstrap interval.

    Give one value a problem. Where a problem was answered several times, that is the mean of its
    answers: drawing problems with all their answers (a cluster bootstrap) is drawing these means, and
    answers to one problem resemble each other, so that drawing answers would promise too much. Missing
    values (NaN) are left out; without any value all three numbers are NaN.

    Args:
        values: One value of every problem.
        confidence: Share of intervals that shall hold the true mean.
        seed: The same seed gives the same interval.
        resamples: How often the problems are drawn again.

    Raises:
        ValueError: ``confidence`` is not between 0 and 1.

    Source:
        Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8.
    """
    _check_confidence("bootstrap_mean", confidence)
    valid = np.array([value for value in values if not math.isnan(value)])
    if valid.size == 0:
        return Interval(estimate=math.nan, low=math.nan, high=math.nan)
    means = _bootstrap_means(valid, np.random.default_rng(seed), resamples)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate=float(valid.mean()), low=float(low), high=float(high))


def sign_flip(differences: Iterable[float], *, seed: int = 0, flips: int = FLIPS) -> float:
    """Return the two-sided p value of the paired randomisation test.

    Were two models the same, each problem's difference could as well have the other sign. The p value is
    the share of sign patterns whose sum is at least as far from 0 as the one observed. For right and wrong,
    answered once, every difference has the same size and that is McNemar's exact test, which is what is
    returned. Otherwise patterns are drawn, the observed one counts among them, and the smallest p value that
    can come out is ``1 / (flips + 1)``.

    Args:
        differences: After minus before, one number a problem. Missing (NaN) and 0 say nothing.
        seed: The same seed gives the same p value.
        flips: How many patterns are drawn.

    Source:
        Fisher, "The Design of Experiments", 1935, chapter 3; Phipson and Smyth, "Permutation p-values
        should never be zero", SAGMB 9, 2010, for the pattern that counts.

    >>> sign_flip([1.0] * 5 + [-1.0])
    0.21875
    """
    given = np.array([value for value in differences if value != 0 and not math.isnan(value)])
    # Sizes that differ only by how a mean of fractions was rounded are one size.
    sizes, which = np.unique(np.abs(given).round(12), return_inverse=True)
    if sizes.size <= 1:
        return mcnemar_exact(int((given < 0).sum()), int((given > 0).sum()))
    generator = np.random.default_rng(seed)
    sums = np.zeros(flips)
    for size, count in zip(sizes, np.bincount(which), strict=True):
        sums += size * (2.0 * generator.binomial(count, 0.5, size=flips) - count)
    # A pattern that ties with the observed one must not fall behind it by rounding.
    extreme = abs(given.sum()) * (1 - 1e-9)
    return float((1 + (np.abs(sums) >= extreme).sum()) / (1 + flips))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected so that the chance of any false claim among all is at most the level.

    Holm's step-down method needs no assumption on how the tests depend, and is never weaker than Bonferroni's.

    Raises:
        ValueError: Something is not a p value.

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6, 1979.

    >>> [round(p, 9) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    return _stepwise(p_values, lambda rank, count: count - rank, np.maximum.accumulate)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected so that of all claims the expected share of false ones is at most the level.

    Milder than ``holm``: some claims may be false, the more the more there are. Holds for tests that are
    independent or depend positively, as tests against one common baseline do.

    Raises:
        ValueError: Something is not a p value.

    Source:
        Benjamini and Hochberg, "Controlling the false discovery rate", J. R. Statist. Soc. B 57, 1995.

    >>> [round(p, 9) for p in benjamini_hochberg([0.01, 0.04, 0.03])]
    [0.03, 0.04, 0.04]
    """
    return _stepwise(p_values, lambda rank, count: count / (rank + 1), _running_minimum_from_the_end)


def seeds(values: Sequence[float], confidence: float = 0.95) -> Seeds:
    """Return mean, standard deviation and Student's interval over seeds.

    The interval answers what another training would give, which no number of test problems can. One seed
    says nothing about that.

    Raises:
        ValueError: There is no value, or ``confidence`` is not between 0 and 1.
    """
    _check_confidence("seeds", confidence)
    if not values:
        raise ValueError("seeds: there is no value.")
    average = math.fsum(values) / len(values)
    if len(values) == 1:
        interval = Interval(estimate=average, low=math.nan, high=math.nan)
        return Seeds(values=tuple(values), mean=average, deviation=math.nan, interval=interval)
    deviation = statistics.stdev(values)
    half = _student(len(values) - 1, confidence) * deviation / math.sqrt(len(values))
    interval = Interval(estimate=average, low=average - half, high=average + half)
    return Seeds(values=tuple(values), mean=average, deviation=deviation, interval=interval)


def seed_difference(before: Sequence[float], after: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the difference of two means over seeds with Welch's interval.

    The seeds of the two settings are independent, and their spreads may differ. With fewer than two seeds on
    either side the bounds are NaN. Without any spread at all the interval is the difference.

    Source:
        Welch, "The generalization of Student's problem when several different population variances are
        involved", Biometrika 34, 1947.
    """
    first, second = seeds(before, confidence), seeds(after, confidence)
    difference = second.mean - first.mean
    if math.isnan(first.deviation) or math.isnan(second.deviation):
        return Interval(estimate=difference, low=math.nan, high=math.nan)
    a, b = first.deviation**2 / len(before), second.deviation**2 / len(after)
    if a + b == 0:
        return Interval(estimate=difference, low=difference, high=difference)
    freedom = (a + b) ** 2 / (a * a / (len(before) - 1) + b * b / (len(after) - 1))
    half = _student(freedom, confidence) * math.sqrt(a + b)
    return Interval(estimate=difference, low=difference - half, high=difference + half)


def mean(values: Sequence[float]) -> tuple[float, int]:
    """Return the mean of the values that are not missing (NaN), and how many those are."""
    valid = [value for value in values if not math.isnan(value)]
    return (math.fsum(valid) / len(valid) if valid else math.nan), len(valid)


def _bootstrap_means(values: np.ndarray, generator: np.random.Generator, resamples: int) -> np.ndarray:
    distinct, counts = np.unique(values, return_counts=True)
    if distinct.size * 10 <= values.size:
        # Drawing n problems is drawing how often each distinct value comes: right and wrong need no n numbers.
        drawn = generator.multinomial(values.size, counts / values.size, size=resamples)
        return np.asarray(drawn @ distinct / values.size)
    # In blocks that stay in a processor's cache; all at once would not even fit into memory.
    block = max(1, 250_000 // values.size)
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    return np.concatenate([values[generator.integers(values.size, size=(k, values.size))].mean(axis=1) for k in sizes])


def _stepwise(
    p_values: Sequence[float],
    factor: Callable[[int, int], float],
    monotone: Callable[[np.ndarray], np.ndarray],
) -> list[float]:
    wrong = [p for p in p_values if not 0 <= p <= 1]
    if wrong:
        raise ValueError(f"correction of p values: {wrong[0]} is not between 0 and 1.")
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    raised = np.array([p_values[index] * factor(rank, len(order)) for rank, index in enumerate(order)])
    corrected = dict(zip(order, np.minimum(monotone(raised), 1.0), strict=True))
    return [float(corrected[index]) for index in range(len(p_values))]


def _running_minimum_from_the_end(values: np.ndarray) -> np.ndarray:
    return np.minimum.accumulate(values[::-1])[::-1]


def _same_ids(before: Iterable[str], after: Iterable[str]) -> None:
    first, second = set(before), set(after)
    if not first | second:
        raise ValueError("paired: there are no problems to compare.")
    problems = [
        f"{len(extra)} only {where} ({_some(extra)})"
        for extra, where in ((first - second, "before"), (second - first, "after"))
        if extra
    ]
    if problems:
        raise ValueError(f"paired: the two did not answer the same problems: {'; '.join(problems)}.")


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:NAMED_IN_ERRORS]) + (", ..." if len(names) > NAMED_IN_ERRORS else "")


def _z(confidence: float) -> float:
    _check_confidence("wilson", confidence)
    return statistics.NormalDist().inv_cdf((1 + confidence) / 2)


def _student(freedom: float, confidence: float) -> float:
    from scipy.special import stdtrit  # a tenth of a second to import, and only seeds need it

    return float(stdtrit(freedom, (1 + confidence) / 2))


def _check_confidence(name: str, confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"{name}: confidence={confidence} is not between 0 and 1.")
