"""Before and after: every metric of two models on one task, and whether the difference is real.

A model may have answered every problem once, several times, or with several seeds. One answer each is compared
by McNemar's exact test; otherwise each problem counts as the mean of its answers, and the test flips the signs
of the problems' differences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from eval import answers, pass_at_k
from eval.record import Evaluation, Row, number
from eval.significance import (
    Interval,
    Paired,
    Seeds,
    benjamini_hochberg,
    bootstrap_mean,
    holm,
    mean,
    mean_difference,
    paired,
    seed_difference,
    seeds,
    sign_flip,
    wilson,
)

SIGNIFICANT = 0.05
ACCURACY = "accuracy"
MAIN = "f1"
"""What is tested where nothing is right or wrong, as in OCR and detection."""
MCNEMAR, SIGN_FLIP = "McNemar exact", "sign flip"

Answers = Mapping[str, tuple[Row, ...]]
"""Of every problem, by its id, what was answered."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One model on one task, or several that differ in the seed they were trained with.

    Attributes:
        label: What it is called.
        task: The task's name.
        runs: The answers of every model.
    """

    label: str
    task: str
    runs: tuple[Answers, ...]

    @classmethod
    def of(cls, evaluation: Evaluation) -> Side:
        """Return one model's evaluation."""
        answers = evaluation.answers or {key: (row,) for key, row in evaluation.samples.items()}
        return cls(label=evaluation.label, task=evaluation.task, runs=(answers,))

    @cached_property
    def answers(self) -> Answers:
        """All answers of all models."""
        keys = dict.fromkeys(key for one in self.runs for key in one)
        return {key: tuple(row for one in self.runs for row in one.get(key, ())) for key in keys}

    @property
    def repeated(self) -> bool:
        """Whether some problem has several answers."""
        return any(len(rows) > 1 for rows in self.answers.values())

    def only(self, keys: frozenset[str]) -> Side:
        """Return the same with these problems alone."""
        kept = tuple({key: rows for key, rows in one.items() if key in keys} for one in self.runs)
        return replace(self, runs=kept)

    def correct(self) -> dict[str, float]:
        """Return the share of right answers of every problem of which one could be checked."""
        return _means({key: _checked(rows) for key, rows in self.answers.items()})

    def part(self, name: str) -> dict[str, float]:
        """Return the mean of one part of every problem to which it applies; NaN where all are missing."""
        return _part(self.answers, name)

    def counts(self) -> list[dict[str, tuple[int, int]]]:
        """Return for every model how many checked answers every problem has, and how many are right."""
        checked = [{key: _checked(rows) for key, rows in one.items()} for one in self.runs]
        return [{key: (len(values), int(sum(values))) for key, values in one.items() if values} for one in checked]

    def passes(self, k: int) -> dict[str, float]:
        """Return pass@k of every problem, on average over models: k answers of one model, not of k models."""
        found = [pass_at_k.per_problem(counts, k) for counts in self.counts()]
        return _means({key: [one[key] for one in found if key in one] for key in self.answers})

    def over_seeds(self, measure: str) -> tuple[float, ...]:
        """Return what each seed gave on average: of training, a model each, and of sampling."""
        alone = [replace(self, runs=(one,)) for run in self.runs for one in _by_seed(run)]
        return tuple(mean(list(_values(side, measure).values()))[0] for side in alone)


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
class Flip:
    """A problem whose answers became right or wrong.

    Attributes:
        id: The problem.
        answer: The truth.
        before: Share of right answers with the first model.
        after: Share with the second.
        said_before: What was extracted from the first model's answers, each once; None for nothing.
        said_after: The same of the second.
    """

    id: str
    answer: str
    before: float
    after: float
    said_before: tuple[str | None, ...]
    said_after: tuple[str | None, ...]

    @property
    def gained(self) -> bool:
        """Whether it became right."""
        return self.after > self.before


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Pass@k of both models.

    Attributes:
        k: Of how many answers at least one is right.
        before: With the first model; NaN where it answered less often, as on the other side.
        after: With the second.
        difference: Over the problems that both answered at least ``k`` times.
    """

    k: int
    before: Interval
    after: Interval
    difference: Interval


@dataclass(frozen=True, kw_only=True)
class OverSeeds:
    """What other seeds would give.

    Attributes:
        before: The seeds of the first model.
        after: Those of the second.
        difference: Of the two means, with Welch's interval.
    """

    before: Seeds
    after: Seeds
    difference: Interval


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """A p value that stands among others.

    Attributes:
        family: How many comparisons were made together.
        holm: Holm's: all claims are right with the level's confidence.
        benjamini_hochberg: Benjamini and Hochberg's: few of the claims are wrong.
    """

    family: int
    holm: float
    benjamini_hochberg: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on one task.

    Attributes:
        task: The task's name.
        labels: Names of the two models.
        counts: Problems answered by each.
        intervals: Of each the measure's mean: accuracy with Wilson's interval where every problem was answered
            once, else a bootstrap interval over problems.
        test: McNemar's test; None if they cannot be paired or some problem was answered several times.
        unpaired: Why there is no test at all, as a sentence; empty if there is one.
        unchecked: Problems left out of the test because an answer could not be checked.
        metrics: Every part of the score.
        measure: What is tested: ``accuracy``; where nothing is right or wrong, ``f1``, or the first part.
        difference: Its mean difference over problems, with its bootstrap interval.
        p: Two-sided p value; None without a test.
        method: How it was found: ``McNemar exact`` or ``sign flip``.
        corrected: Filled by ``correct``.
        flips: Problems that changed, those that changed most first.
        passes: Pass@k, where problems were answered several times.
        over_seeds: Where there are several seeds on a side.
    """

    task: str
    labels: tuple[str, str]
    counts: tuple[int, int]
    intervals: tuple[Interval, Interval]
    test: Paired | None
    unpaired: str
    unchecked: int
    metrics: tuple[Metric, ...]
    measure: str
    difference: Interval
    p: float | None
    method: str
    corrected: Corrected | None = None
    flips: tuple[Flip, ...] = ()
    passes: tuple[Pass, ...] = field(default=())
    over_seeds: OverSeeds | None = None

    @property
    def sentence(self) -> str:
        """The test in words."""
        if self.p is None:
            return self.unpaired
        verdict = "is unlikely to be chance" if self.p < SIGNIFICANT else "may be chance"
        first, second = self.labels
        t = self.test
        if t is None:
            return (
                f"Sign-flip test over problems: {self.measure} changed by {self.difference.estimate:+.3f} "
                f"({self.difference.low:+.3f} to {self.difference.high:+.3f}), p={p_value(self.p)}; "
                f"the difference {verdict} at the level {SIGNIFICANT}."
            )
        return (
            f"McNemar exact test: b={t.b}, c={t.c}, p={p_value(t.p)}. Of {t.n} problems, {t.c} were wrong {first} and "
            f"right {second}, {t.b} the other way round; the difference {verdict} at the level {SIGNIFICANT}."
        )


def comparisons(evaluations: Sequence[Evaluation]) -> list[Comparison]:
    """Return, for each task, the first model against each other one, in the given order, and corrected together."""
    tasks: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        tasks.setdefault(evaluation.task, []).append(evaluation)
    found = [compare(Side.of(group[0]), Side.of(other)) for group in tasks.values() for other in group[1:]]
    return correct(found)


def compare(before: Side, after: Side) -> Comparison:
    """Return two models on one task, as far as they can be compared."""
    names = _part_names([before.answers, after.answers])
    measure = _measure(before, after, names)
    first, second = _values(before, measure), _values(after, measure)
    unpaired, unchecked = _unpaired(before, after, first, second)
    repeated = before.repeated or after.repeated
    test = None if unpaired or repeated or measure != ACCURACY else _mcnemar(first, second)
    return Comparison(
        task=before.task,
        labels=(before.label, after.label),
        counts=(len(before.answers), len(after.answers)),
        intervals=(_interval(before, measure, first), _interval(after, measure, second)),
        test=test,
        unpaired=unpaired,
        unchecked=unchecked,
        metrics=tuple(_metric(name, before.part(name), after.part(name)) for name in names),
        measure=measure,
        difference=mean_difference(first, second),
        p=None if unpaired else test.p if test else sign_flip(_differences(first, second)),
        method="" if unpaired else MCNEMAR if test else SIGN_FLIP,
        flips=_flips(before, after),
        passes=_passes(before, after),
        over_seeds=_over_seeds(before, after, measure),
    )


def correct(found: Sequence[Comparison]) -> list[Comparison]:
    """Return comparisons with the p values that hold when all of them are read together."""
    tested = [one for one in found if one.p is not None]
    p_values = [one.p for one in tested if one.p is not None]
    both = zip(holm(p_values), benjamini_hochberg(p_values), strict=True)
    corrected = {
        id(one): Corrected(family=len(tested), holm=strict, benjamini_hochberg=mild)
        for one, (strict, mild) in zip(tested, both, strict=True)
    }
    return [replace(one, corrected=corrected.get(id(one))) for one in found]


def changed(before: Evaluation, after: Evaluation, *, gained: bool) -> list[str]:
    """Return the ids of the problems that became right (``gained``) or became wrong."""
    first, second = before.correct(), after.correct()
    return [key for key in first if key in second and first[key] != second[key] and second[key] is gained]


def extracted(row: Row) -> str | None:
    """Return the answer found in a response: what the evaluation stored, else what stands in its answer tags."""
    if "extracted" in row:
        return None if row["extracted"] is None else str(row["extracted"])
    match = answers.ANSWER.search(str(row.get("response", "")))
    return match.group(1).strip() if match else None


def p_value(p: float) -> str:
    """Return a p value with three digits that count.

    >>> p_value(0.21875), p_value(0.000012345), p_value(1.0)
    ('0.219', '1.23e-05', '1.00')
    """
    if p < 0.001:
        return f"{p:.2e}"
    return f"{p:.3f}" if p < 0.9995 else f"{p:.2f}"


def part_names_of(found: Answers) -> list[str]:
    """Return the parts that occur among answers, in the order in which they first do."""
    return _part_names([found])


def part_names(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the parts that occur, in the order in which they first do."""
    return _part_names([{key: (row,) for key, row in one.samples.items()} for one in evaluations])


def accuracy(evaluation: Evaluation) -> Interval:
    """Return the share of checked problems that were solved."""
    correct = evaluation.correct()
    return wilson(sum(correct.values()), len(correct))


def _part_names(of: Sequence[Answers]) -> list[str]:
    names: dict[str, None] = {}
    for rows in (rows for found in of for rows in found.values()):
        for row in rows:
            names |= dict.fromkeys(row.get("parts") or {})
    return list(names)


def _measure(before: Side, after: Side, names: Sequence[str]) -> str:
    if before.correct() or after.correct() or not names:
        return ACCURACY
    return MAIN if MAIN in names else names[0]


def _values(side: Side, measure: str) -> dict[str, float]:
    return side.correct() if measure == ACCURACY and side.correct() else side.part(measure)


def _unpaired(before: Side, after: Side, first: Mapping[str, float], second: Mapping[str, float]) -> tuple[str, int]:
    """Return why the two cannot be paired, and how many problems have no value with one of them."""
    ours, theirs = before.answers.keys(), after.answers.keys()
    if ours != theirs:
        return (
            "McNemar exact test: not yet, because the two did not answer the same problems "
            f"({len(ours - theirs)} only {before.label}, {len(theirs - ours)} only {after.label}).",
            0,
        )
    complete = len(_differences(first, second))
    if not complete:
        return "McNemar exact test: not possible, because no answer could be checked.", len(ours)
    return "", len(ours) - complete


def _differences(before: Mapping[str, float], after: Mapping[str, float]) -> list[float]:
    found = [after[key] - before[key] for key in before if key in after]
    return [value for value in found if not math.isnan(value)]


def _mcnemar(before: Mapping[str, float], after: Mapping[str, float]) -> Paired:
    keys = before.keys() & after.keys()
    return paired({key: before[key] == 1 for key in keys}, {key: after[key] == 1 for key in keys})


def _interval(side: Side, measure: str, values: Mapping[str, float]) -> Interval:
    if measure == ACCURACY and not side.repeated and all(value in (0, 1) for value in values.values()):
        return wilson(int(sum(values.values())), len(values))
    return bootstrap_mean(list(values.values()))


def _flips(before: Side, after: Side) -> tuple[Flip, ...]:
    first, second = before.correct(), after.correct()
    ours, theirs = before.answers, after.answers
    found = [
        Flip(
            id=key,
            answer=str(theirs[key][0].get("answer", "")),
            before=first[key],
            after=second[key],
            said_before=_said(ours[key]),
            said_after=_said(theirs[key]),
        )
        for key in first
        if key in second and first[key] != second[key]
    ]
    return tuple(sorted(found, key=lambda flip: -abs(flip.after - flip.before)))


def _said(rows: Sequence[Row]) -> tuple[str | None, ...]:
    return tuple(dict.fromkeys(extracted(row) for row in rows))


def _passes(before: Side, after: Side) -> tuple[Pass, ...]:
    ks = sorted({k for side in (before, after) for counts in side.counts() for k in pass_at_k.steps(counts)})
    if not any(k > 1 for k in ks):
        return ()
    return tuple(_pass(k, before.passes(k), after.passes(k)) for k in ks)


def _pass(k: int, before: Mapping[str, float], after: Mapping[str, float]) -> Pass:
    return Pass(
        k=k,
        before=bootstrap_mean(list(before.values())),
        after=bootstrap_mean(list(after.values())),
        difference=mean_difference(before, after),
    )


def _over_seeds(before: Side, after: Side, measure: str) -> OverSeeds | None:
    first, second = before.over_seeds(measure), after.over_seeds(measure)
    if len(first) < 2 and len(second) < 2:
        return None
    return OverSeeds(before=seeds(first), after=seeds(second), difference=seed_difference(first, second))


def _by_seed(run: Answers) -> list[Answers]:
    """Return the answers apart by the seed that they were sampled with."""
    of: dict[int, dict[str, tuple[Row, ...]]] = {}
    for key, rows in run.items():
        for row in rows:
            one = of.setdefault(int(row.get("seed") or 0), {})
            one[key] = (*one.get(key, ()), row)
    return list(of.values())


def _checked(rows: Sequence[Row]) -> list[float]:
    return [float(row["correct"]) for row in rows if isinstance(row.get("correct"), bool)]


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {key: math.fsum(of) / len(of) for key, of in values.items() if of}


def _part(found: Answers, name: str) -> dict[str, float]:
    values = {
        key: [row["parts"][name] for row in rows if name in (row.get("parts") or {})] for key, rows in found.items()
    }
    return {key: mean([number(value) for value in of])[0] for key, of in values.items() if of}


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
