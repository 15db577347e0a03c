"""How sure we may be that one model is better than another on the same problems.

Two models answer the same problems, so everything here is paired: what counts is the problems on
which they disagree. Pure functions of counts and scores; nothing here knows what a model is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
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
    if not 0 < confidence < 1:
        raise ValueError(f"mean_difference: confidence={confidence} is not between 0 and 1.")
    pairs = [(before[name], after[name]) for name in sorted(before.keys() & after.keys())]
    differences = np.array([b - a for a, b in pairs if not (math.isnan(a) or math.isnan(b))])
    if differences.size == 0:
        return Interval(estimate=math.nan, low=math.nan, high=math.nan)
    generator = np.random.default_rng(seed)
    means = _bootstrap_means(differences, generator, resamples)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate=float(differences.mean()), low=float(low), high=float(high))


def mean(values: Sequence[float]) -> tuple[float, int]:
    """Return the mean of the values that are not missing (NaN), and how many those are."""
    valid = [value for value in values if not math.isnan(value)]
    return (math.fsum(valid) / len(valid) if valid else math.nan), len(valid)


def _bootstrap_means(values: np.ndarray, generator: np.random.Generator, resamples: int) -> np.ndarray:
    # In blocks, because resamples x problems indices of a large task would not fit into memory.
    block = max(1, 2_000_000 // values.size)
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    return np.concatenate([values[generator.integers(values.size, size=(k, values.size))].mean(axis=1) for k in sizes])


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
    if not 0 < confidence < 1:
        raise ValueError(f"wilson: confidence={confidence} is not between 0 and 1.")
    return statistics.NormalDist().inv_cdf((1 + confidence) / 2)
