"""What models scored, ready to be shown: the numbers of a comparison and some of the problems behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from eval import comparison
from eval.comparison import Comparison
from eval.record import Evaluation, Row
from eval.report import document, pictures
from eval.report.rollouts import common_end
from eval.significance import Interval
from orchestrator.run_directory import RunDirectory

CHANGED_SHOWN = {True: 4, False: 2}


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What one model wrote: whose, and the text with its tags coloured."""

    label: str
    response: Markup


@dataclass(frozen=True, kw_only=True)
class Change:
    """A problem on which two models disagree.

    Attributes:
        id: The problem.
        gained: Whether the second was right.
        images: Data URIs.
        question: What is particular to the problem.
        instruction: What every prompt ends with.
        answer: The truth.
        answers: Of both models.
    """

    id: str
    gained: bool
    images: tuple[str, ...]
    question: str
    instruction: str
    answer: str
    answers: tuple[Answered, Answered]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One task: the numbers and the problems behind them."""

    comparison: Comparison
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Score:
    """One model on one task, alone.

    Attributes:
        label: The model.
        task: The task.
        count: Problems answered.
        accuracy: With Wilson's interval; NaN where nothing is right or wrong.
    """

    label: str
    task: str
    count: int
    accuracy: Interval


def of_run(run: RunDirectory, evaluations: Sequence[Evaluation]) -> list[Result]:
    """Return, for each task of a run, its first model against each other one."""
    known = {(one.task, one.label): one for one in evaluations}
    found = []
    for one in comparison.comparisons(evaluations):
        before, after = (known[one.task, label] for label in one.labels)
        changes = changed((run, run), before.samples, after.samples, one)
        found.append(Result(comparison=one, changes=changes))
    return found


def scores(evaluations: Sequence[Evaluation]) -> list[Score]:
    """Return what each model scored alone."""
    return [
        Score(label=one.label, task=one.task, count=len(one.samples), accuracy=comparison.accuracy(one))
        for one in evaluations
    ]


def changed(
    runs: tuple[RunDirectory, RunDirectory],
    before: Mapping[str, Row],
    after: Mapping[str, Row],
    of: Comparison,
) -> tuple[Change, ...]:
    """Return some of the problems that changed: more of those that became right than of those that became wrong.

    Args:
        runs: Where the answers of both models, and their images, lie.
        before: The first model's answers by problem.
        after: The second's.
        of: Their comparison.
    """
    if of.p is None:
        return ()
    instruction = common_end([str(row.get("prompt", "")) for row in after.values()])
    found = []
    for gained, count in CHANGED_SHOWN.items():
        flips = [flip for flip in of.flips if flip.gained is gained and flip.id in before and flip.id in after]
        for flip in flips[:count]:
            rows = before[flip.id], after[flip.id]
            found.append(_change(runs[1], flip.id, gained, rows, of.labels, instruction))
    return tuple(found)


def _change(
    run: RunDirectory, key: str, gained: bool, rows: tuple[Row, Row], labels: tuple[str, str], instruction: str
) -> Change:
    first, second = (
        Answered(label=label, response=document.marked(str(row.get("response", ""))))
        for label, row in zip(labels, rows, strict=True)
    )
    uris = (pictures.one(run, reference) for reference in rows[1].get("images") or ())
    return Change(
        id=key,
        gained=gained,
        images=tuple(uri for uri in uris if uri),
        question=str(rows[1].get("prompt", "")).replace("<image>", "").strip().removesuffix(instruction).strip(),
        instruction=instruction,
        answer=str(rows[1].get("answer", "")),
        answers=(first, second),
    )
