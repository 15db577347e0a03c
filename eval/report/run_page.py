"""The page of one run, which may still be going on; then it says what is not there yet."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from eval import record, timeline
from eval.record import Evaluation, Row, Steps
from eval.report import bars, curves, document, results, rollouts
from eval.report.rollouts import Packed
from eval.timeline import Mark
from orchestrator import goodput, ledger
from orchestrator.errors import NotFound
from orchestrator.goodput import Goodput
from orchestrator.ledger import Event
from orchestrator.run_directory import RunDirectory

EVENTS_SHOWN = 400
MARKS_LISTED = 200
SCRIPTS = ("theme.js", "charts.js", "rollouts.js")


@dataclass(frozen=True, kw_only=True)
class Trend:
    """A number at the begin and at the end of training, each over a tenth of the steps."""

    first: float
    last: float


def build(run: RunDirectory) -> str:
    """Return the report of ``run`` as HTML.

    Raises:
        NotFound: There is no such folder.
    """
    if not run.path.is_dir():
        raise NotFound(f"--run-dir: {run.path} is not a folder. `python -m orchestrator list` names the runs.")
    events, steps, plan = ledger.read(run.ledger), record.steps(run), record.plan(run)
    evaluations = record.evaluations(run)
    packed = rollouts.pack(run, plan)
    marks = timeline.marks(events)
    return document.render(
        "run.html",
        SCRIPTS,
        blocks=_blocks(packed),
        run=run,
        plan=plan,
        plan_json=json.dumps(plan, indent=2),
        state=timeline.state(events, batch_roles(plan)),
        events=events[-EVENTS_SHOWN:],
        events_left_out=max(0, len(events) - EVENTS_SHOWN),
        attempts=timeline.attempts_s(events),
        lanes=timeline.lanes(events),
        marks=marks,
        faults=[mark for mark in marks if mark.kind != "checkpoint"][:MARKS_LISTED],
        marks_drawn=_drawn(marks),
        training_time=timeline.training_time(steps),
        goodput=spent(run, plan, events),
        causes=goodput.CAUSES,
        steps=steps,
        reward=trend(steps, "critic/rewards/mean"),
        unheard=_mean(steps, "judge/nan_frac"),
        figures=curves.figures(steps, rollouts.weights(plan), interruptions(events)),
        results=results.of_run(run, evaluations),
        scores=results.scores(evaluations),
        evaluations=evaluations,
        checkpoints=record.checkpoints(run),
        judge=record.judge_quality(run),
        packed=packed,
        missing=missing(run, steps, evaluations, packed.table.rollouts),
    )


def missing(run: RunDirectory, steps: Steps, evaluations: Sequence[Evaluation], rollouts: int) -> list[str]:
    """Return a sentence for every part of a complete run that is not there yet."""
    unsummed = [f"{e.label} on {e.task} ({len(e.samples)} problems so far)" for e in evaluations if not e.summary]
    found = [
        (not run.plan.exists(), "There is no plan.json, so this folder was not made by `submit`."),
        (not run.ledger.exists(), "There is no ledger: the run has not started."),
        (not steps.rows, "There are no training metrics yet."),
        (not rollouts, "No rollouts were recorded yet."),
        (not record.checkpoints(run), "No checkpoint has been committed yet."),
        (not evaluations, "Nothing has been evaluated yet, so there is no before and after."),
        (bool(unsummed), f"These evaluations have not finished: {', '.join(unsummed)}."),
        (
            bool(evaluations) and len({e.label for e in evaluations}) < 2,
            "Only one model has been evaluated, so there is no before and after.",
        ),
    ]
    return [sentence for is_missing, sentence in found if is_missing]


def batch_roles(plan: Row) -> list[str]:
    """Return the roles that must succeed for the run to succeed."""
    return [role["name"] for role in plan.get("roles", ()) if role.get("kind") == "batch"]


def spent(run: RunDirectory, plan: Row, events: Sequence[Event]) -> Goodput | None:
    """Return where the run's time went; None before its first attempt."""
    trainers = {role["name"] for role in plan.get("roles", ()) if role.get("job") in goodput.TRAINERS}
    found = goodput.measure(events, goodput.steps(run.metrics), trainers=trainers, now=time.time())
    return found if found.allocated_s > 0 else None


def interruptions(events: Sequence[Event]) -> list[float]:
    """Return the steps after which training went on from a checkpoint, for marks on curves."""
    steps = {float(e.fields["step"]) for e in events if e.event == "resumed" and "step" in e.fields}
    return sorted(steps)


def trend(steps: Steps, metric: str) -> Trend | None:
    """Return how a metric changed over training; None for fewer than two steps with it."""
    values = [value for _, value in steps.values(metric)]
    if len(values) < 2:
        return None
    size = max(1, len(values) // 10)
    return Trend(first=math.fsum(values[:size]) / size, last=math.fsum(values[-size:]) / size)


def _drawn(marks: Sequence[Mark]) -> list[tuple[str, Markup, int]]:
    """Return what went wrong and what was saved as two rows, so that neither hides the other."""
    rows = {
        "faults": [mark for mark in marks if mark.kind != "checkpoint"],
        "checkpoints": [mark for mark in marks if mark.kind == "checkpoint"],
    }
    return [(name, bars.marks(of), len(of)) for name, of in rows.items() if of]


def _mean(steps: Steps, metric: str) -> float | None:
    values = [value for _, value in steps.values(metric)]
    return math.fsum(values) / len(values) if values else None


def _blocks(packed: Packed) -> Mapping[str, str]:
    if not packed.table.step:
        return {}
    images = {f"image-{number}": uri for number, uri in enumerate(packed.images) if uri}
    return {**packed.blocks, **images}
