"""Before and after: every metric of two models on one task, and whether the difference is real."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.record import Evaluation
from eval.significance import Interval, Paired, mean, mean_difference, paired, wilson

SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A mean over problems with both models; NaN where there is none.

    Attributes:
        name: The part's name.
        before: Mean with the first model.
        after: Mean with the second.
        difference: Mean over the problems that have both, with its bootstrap interval.
        missing: Problems without a value, with the first and the second model.
    """

    name: str
    before: float
    after: float
    difference: Interval
    missing: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on one task.

    Attributes:
        task: The task's name.
        labels: Names of the two models.
        counts: Problems answered by each.
        intervals: Accuracy of each with Wilson's interval.
        test: McNemar's test; None if they cannot be paired.
        unpaired: Why not, as a sentence; empty if they can.
        unchecked: Problems left out of the test because an answer could not be checked.
        metrics: Every part of the score.
    """

    task: str
    labels: tuple[str, str]
    counts: tuple[int, int]
    intervals: tuple[Interval, Interval]
    test: Paired | None
    unpaired: str
    unchecked: int
    metrics: tuple[Metric, ...]

    @property
    def sentence(self) -> str:
        """McNemar's test in words."""
        if self.test is None:
            return self.unpaired
        t = self.test
        verdict = "is unlikely to be chance" if t.p < SIGNIFICANT else "may be chance"
        first, second = self.labels
        return (
            f"McNemar exact test: b={t.b}, c={t.c}, p={p_value(t.p)}. Of {t.n} problems, {t.c} were wrong {first} and "
            f"right {second}, {t.b} the other way round; the difference {verdict} at the level {SIGNIFICANT}."
        )


def comparisons(evaluations: Sequence[Evaluation]) -> list[Comparison]:
    """Return, for each task, the first model against each other one, in the given order."""
    tasks: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        tasks.setdefault(evaluation.task, []).append(evaluation)
    return [_compare(group[0], other) for group in tasks.values() for other in group[1:]]


def changed(before: Evaluation, after: Evaluation, *, gained: bool) -> list[str]:
    """Return the ids of the problems that became right (``gained``) or became wrong."""
    first, second = before.correct(), after.correct()
    return [key for key in first if key in second and first[key] != second[key] and second[key] is gained]


def p_value(p: float) -> str:
    """Return a p value with three digits that count.

    >>> p_value(0.21875), p_value(0.000012345), p_value(1.0)
    ('0.219', '1.23e-05', '1.00')
    """
    if p < 0.001:
        return f"{p:.2e}"
    return f"{p:.3f}" if p < 0.9995 else f"{p:.2f}"


def part_names(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the parts that occur, in the order in which they first do."""
    names: dict[str, None] = {}
    for evaluation in evaluations:
        for sample in evaluation.samples.values():
            names |= dict.fromkeys(sample.get("parts") or {})
    return list(names)


def accuracy(evaluation: Evaluation) -> Interval:
    """Return the share of checked problems that were solved."""
    correct = evaluation.correct()
    return wilson(sum(correct.values()), len(correct))


def _compare(before: Evaluation, after: Evaluation) -> Comparison:
    test, unpaired, unchecked = _test(before, after)
    return Comparison(
        task=before.task,
        labels=(before.label, after.label),
        counts=(len(before.samples), len(after.samples)),
        intervals=(accuracy(before), accuracy(after)),
        test=test,
        unpaired=unpaired,
        unchecked=unchecked,
        metrics=tuple(_metric(name, before.part(name), after.part(name)) for name in part_names([before, after])),
    )


def _test(before: Evaluation, after: Evaluation) -> tuple[Paired | None, str, int]:
    if before.samples.keys() != after.samples.keys():
        only = (len(before.samples.keys() - after.samples.keys()), len(after.samples.keys() - before.samples.keys()))
        return (
            None,
            f"McNemar exact test: not yet, because the two did not answer the same problems ({only[0]} only "
            f"{before.label}, {only[1]} only {after.label}).",
            0,
        )
    first, second = before.correct(), after.correct()
    checked = first.keys() & second.keys()
    unchecked = len(before.samples) - len(checked)
    if not checked:
        return None, "McNemar exact test: not possible, because no answer could be checked.", unchecked
    return paired(_only(first, checked), _only(second, checked)), "", unchecked


def _only(values: Mapping[str, bool], keys: set[str]) -> dict[str, bool]:
    return {key: value for key, value in values.items() if key in keys}


def _metric(name: str, before: Mapping[str, float], after: Mapping[str, float]) -> Metric:
    first, second = mean(list(before.values())), mean(list(after.values()))
    return Metric(
        name=name,
        before=first[0],
        after=second[0],
        difference=mean_difference(before, after),
        missing=(_missing(before), _missing(after)),
    )


def _missing(values: Mapping[str, float]) -> int:
    return sum(math.isnan(value) for value in values.values())
