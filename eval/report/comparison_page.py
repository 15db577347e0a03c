"""The page of several runs side by side: what they scored, how they learned, where their time went, what differs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval import compare, comparison, record, timeline
from eval.compare import Arm, Comparisons
from eval.record import Evaluation, Steps
from eval.report import chart, curves, document, results, rollouts, run_page
from eval.report.results import Result
from eval.report.run_page import Trend
from orchestrator import ledger
from orchestrator.errors import InputError, NotFound
from orchestrator.goodput import Goodput
from orchestrator.run_directory import RunDirectory

SCRIPTS = ("theme.js", "charts.js")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One run of the page.

    Attributes:
        name: The run's, or its path's end where several have one name.
        state: As the run's own page says.
        steps: Its metrics.
        reward: At the begin and at the end.
        goodput: Where its time went.
        weights: Of its rewards.
    """

    name: str
    state: str
    steps: Steps
    reward: Trend | None
    goodput: Goodput | None
    weights: dict[str, float]


def build(runs: Sequence[RunDirectory]) -> str:
    """Return the page that compares runs, the first of which is the reference.

    Raises:
        NotFound: One of them is not a folder.
    """
    for run in runs:
        if not run.path.is_dir():
            raise NotFound(f"--run-dir: {run.path} is not a folder. `python -m orchestrator list` names the runs.")
    names = _names(runs)
    sides = [_side(run, name) for run, name in zip(runs, names, strict=True)]
    found, why_not = _between(runs)
    return document.render(
        "comparison.html",
        SCRIPTS,
        sides=sides,
        legend=chart.legend(names, always=True),
        parts_shown=list(dict.fromkeys(part for side in sides for part in curves.part_names(side.steps))),
        trend=run_page.trend,
        figures=curves.compared({side.name: side.steps for side in sides}),
        found=found,
        why_not=why_not,
        results=_results(found) if found else [],
        changes=_changes(found) if found else [],
    )


def _side(run: RunDirectory, name: str) -> Side:
    events, plan, steps = ledger.read(run.ledger), record.plan(run), record.steps(run)
    return Side(
        name=name,
        state=timeline.state(events, run_page.batch_roles(plan)),
        steps=steps,
        reward=run_page.trend(steps, "critic/rewards/mean"),
        goodput=run_page.spent(run, plan, events),
        weights=rollouts.weights(plan),
    )


def _names(runs: Sequence[RunDirectory]) -> list[str]:
    names = [run.name for run in runs]
    return [run.name if names.count(run.name) == 1 else "/".join(run.path.parts[-2:]) for run in runs]


def _between(runs: Sequence[RunDirectory]) -> tuple[Comparisons | None, str]:
    """Return what the runs' models scored against each other, or why that cannot be said."""
    try:
        return compare.between(list(runs), common=True), ""
    except (InputError, NotFound) as error:
        return None, str(error)


def _results(found: Comparisons) -> list[Result]:
    arms = {arm.name: arm for arm in found.arms}
    return [_result(one, *(arms[label] for label in one.labels)) for one in found.results]


def _result(one: comparison.Comparison, before: Arm, after: Arm) -> Result:
    first, second = _evaluation(before, one.task), _evaluation(after, one.task)
    changes = results.changed((before.runs[0], after.runs[0]), first.samples, second.samples, one)
    return Result(comparison=one, changes=changes)


def _evaluation(arm: Arm, task: str) -> Evaluation:
    known = {(one.label, one.task): one for one in record.evaluations(arm.runs[0])}
    return known[arm.label, task]


def _changes(found: Comparisons) -> list[dict[str, Any]]:
    """Return settings that differ, as texts."""
    return [
        {"arm": change.arm, "key": change.key, "before": _shown(change.before), "after": _shown(change.after)}
        for change in found.changes
    ]


def _shown(value: Any) -> str:
    return "–" if value is None else json.dumps(value, ensure_ascii=False)
