"""What the time of a run was spent on: seconds by cause, folded from its ledger and its metrics.

Goodput is the time of committed steps, each counted once, over the time of all allocations. Time in the
queue is no allocation and is told apart. Two clocks meet here, those of the supervisor's node and of the
trainer's; whatever they disagree by ends up under ``idle``.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator import ledger, plan, spans
from orchestrator.control import LEASE_S
from orchestrator.ledger import Event
from orchestrator.run_directory import RunDirectory
from orchestrator.spans import Span

SCHEMA = 1
TRAINERS = ("grpo", "sft")
"""Jobs whose steps are the run's progress."""
CAUSES = {
    "productive": "committed steps",
    "unsaved": "steps of a live attempt that no checkpoint holds yet",
    "checkpoint": "saving",
    "judge_wait": "no judge answered and training stood still",
    "start_up": "from the allocation, or a restart, to the first step",
    "lost_work": "steps that were done again or never saved",
    "other_roles": "roles other than training that succeeded",
    "drain": "from the request to stop, or the last step, to the end",
    "idle": "everything else",
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One line of ``metrics.jsonl``.

    Attributes:
        number: From 1.
        end: Unix time, seconds.
        took_s: From the first prompt to the new weights.
        verdicts_s: The part of it that was spent waiting for rewards after the last response.
    """

    number: int
    end: float
    took_s: float
    verdicts_s: float = 0.0

    @property
    def span(self) -> Span:
        return self.end - self.took_s, self.end


@dataclass(frozen=True, kw_only=True)
class Goodput:
    """Where the time went.

    Attributes:
        goodput: ``productive`` over ``allocated_s``; 0 before the first allocation.
        training_goodput: The same without the time of other roles, which do work of their own.
        allocated_s: Of all attempts, from begin to end.
        queue_s: From submission to the first attempt, and between attempts while a job waited.
        seconds: By cause; they add up to ``allocated_s``.
        attempts: How many there were.
        ended: How often an attempt ended early, by kind: ``{"preempted": 2}``.
        restarts: How often a role was started again within an attempt.
        steps: How many steps are committed.
    """

    goodput: float
    training_goodput: float
    allocated_s: float
    queue_s: float
    seconds: dict[str, float]
    attempts: int
    ended: dict[str, int]
    restarts: int
    steps: int

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON-like data with a schema version."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """One attempt's time; ``live`` while it goes on."""

    number: int
    begin: float
    end: float
    live: bool = False


@dataclass(frozen=True, kw_only=True)
class Life:
    """One trainer.

    Attributes:
        begin: Its start.
        up: When its first step began.
        last: The end of its last step or checkpoint that counts.
        end: Its end.
        done: Whether it ended well.
        live: Whether it goes on.
    """

    begin: float
    up: float
    last: float
    end: float
    done: bool
    live: bool


def read(run: RunDirectory) -> Goodput:
    """Return the goodput of a run, finished or not."""
    trainers = {role.name for role in plan.load(run.plan).roles if role.job in TRAINERS}
    return measure(ledger.read(run.ledger), steps(run.metrics), trainers=trainers, now=time.time())


def steps(metrics: Path) -> list[Step]:
    """Return the steps in ``metrics.jsonl``; a last line that is still being written is left out."""
    if not metrics.exists():
        return []
    return list(_steps(metrics.read_text(encoding="utf-8", errors="replace").splitlines()))


def _steps(lines: Iterable[str]) -> Iterator[Step]:
    for line in lines:
        try:
            known = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "timing_s/step" in known:
            yield Step(
                number=int(known["step"]),
                end=float(known["time"]),
                took_s=float(known["timing_s/step"]),
                verdicts_s=float(known.get("timing_s/reward", 0.0)),
            )


def measure(events: Sequence[Event], done: Iterable[Step], *, trainers: Collection[str], now: float) -> Goodput:
    """Return where the time of a run went.

    Args:
        events: The run's ledger.
        done: Its steps. Of two with one number the later counts.
        trainers: Names of the roles that make steps.
        now: Unix time, until which a live attempt is counted.
    """
    unique = list({step.number: step for step in done}.values())
    committed = max((event.fields["step"] for event in events if event.event == "checkpoint_committed"), default=0)
    kept = [step for step in unique if step.number <= committed]
    unsaved = [step for step in unique if step.number > committed]
    allocations = _allocations(events, unique, now)
    each = [_spent(allocation, events, kept, unsaved, trainers) for allocation in allocations]
    spent = {cause: sum(seconds[cause] for seconds in each) for cause in CAUSES}
    allocated_s = sum(allocation.end - allocation.begin for allocation in allocations)
    training_s = allocated_s - spent["other_roles"]
    return Goodput(
        goodput=round(spent["productive"] / allocated_s, 4) if allocated_s else 0.0,
        training_goodput=round(spent["productive"] / training_s, 4) if training_s > 0 else 0.0,
        allocated_s=round(allocated_s, 1),
        queue_s=round(_queue_s(events, allocations, now), 1),
        seconds={cause: round(spent[cause], 1) for cause in CAUSES},
        attempts=len(allocations),
        ended=_ended(events),
        restarts=sum(event.event == "role_restarting" for event in events),
        steps=len(kept),
    )


def table(name: str, found: Goodput) -> list[str]:
    """Return the numbers as lines for people."""
    ends = ", ".join(f"{count} {kind}" for kind, count in sorted(found.ended.items()))
    lines = [
        f"{name}: goodput {found.goodput:.2f} of {found.allocated_s:.0f} s allocated, "
        f"{found.training_goodput:.2f} of training's share. "
        f"{found.steps} steps committed; attempts: {found.attempts}{f' ({ends})' if ends else ''}, "
        f"role restarts: {found.restarts}.",
        f"  {'queue':<12} {found.queue_s:>9.1f} s           before and between allocations",
    ]
    for cause, meaning in CAUSES.items():
        share = found.seconds[cause] / found.allocated_s if found.allocated_s else 0.0
        lines.append(f"  {cause.replace('_', ' '):<12} {found.seconds[cause]:>9.1f} s  {share:>6.1%}  {meaning}")
    return lines


def _allocations(events: Sequence[Event], done: Sequence[Step], now: float) -> list[Allocation]:
    starts = [event for event in events if event.event == "attempt_started"]
    found = []
    for index, start in enumerate(starts):
        following = starts[index + 1] if index + 1 < len(starts) else None
        latest = _began(following) if following is not None else now
        ends = [e.at for e in events if e.event == "run_finished" and e.generation == start.generation]
        live = not ends and following is None and now - _last_sign(start, events, done, now) < LEASE_S
        end = ends[-1] if ends else now if live else _lost_at(start, events, done, latest)
        begin = _began(start)
        found.append(Allocation(number=start.generation, begin=begin, end=max(begin, min(end, latest)), live=live))
    return found


def _began(start: Event) -> float:
    """Return when the allocation began, if the supervisor could tell, else when it began itself."""
    return float(start.fields.get("allocated_at", start.at))


def _lost_at(start: Event, events: Sequence[Event], done: Sequence[Step], latest: float) -> float:
    """Return when an attempt ended that left no word: as Slurm said, else when its lease ran out."""
    told = [
        float(event.fields["ended_at"])
        for event in events
        if event.event == "attempt_lost"
        and event.fields.get("attempt") == start.generation
        and event.fields.get("ended_at") is not None
    ]
    return told[-1] if told else _last_sign(start, events, done, latest) + LEASE_S


def _last_sign(start: Event, events: Sequence[Event], done: Sequence[Step], latest: float) -> float:
    signs = [event.at for event in events if event.generation == start.generation]
    signs += [step.end for step in done if start.at <= step.end <= latest]
    return max(signs)


def _queue_s(events: Sequence[Event], allocations: Sequence[Allocation], now: float) -> float:
    submitted = [event.at for event in events if event.event == "submitted"]
    first = allocations[0].begin if allocations else now
    waited = max(0.0, first - submitted[0]) if submitted else 0.0
    # Without a job behind it a run was at rest until a person continued it.
    queued = {event.generation for event in events if event.event == "successor_queued"}
    cancelled = {event.generation for event in events if event.event == "successor_cancelled"}
    for earlier, later in itertools.pairwise(allocations):
        if earlier.number in queued - cancelled:
            waited += max(0.0, later.begin - earlier.end)
    return waited


def _ended(events: Sequence[Event]) -> dict[str, int]:
    kinds = [str(e.fields.get("kind")) for e in events if e.event in ("run_finished", "attempt_lost")]
    return dict(Counter(kind for kind in kinds if kind not in ("done", "None")))


def _spent(
    allocation: Allocation,
    events: Sequence[Event],
    kept: Sequence[Step],
    unsaved: Sequence[Step],
    trainers: Collection[str],
) -> dict[str, float]:
    """Return the seconds of one allocation by cause; they add up to its length."""
    known = [event for event in events if event.generation == allocation.number]
    steps_here = _within(allocation, [step.span for step in kept])
    later = _within(allocation, [step.span for step in unsaved]) if allocation.live else []
    saves = [_save(event) for event in known if _is_save(event)]
    without = _without_service(allocation, known, trainers)
    verdicts = {step.span: step.verdicts_s for step in kept}
    spent = dict.fromkeys(CAUSES, 0.0)
    taken: list[Span] = []
    for cause, claimed in (("productive", steps_here), ("unsaved", later), ("checkpoint", _within(allocation, saves))):
        free = spans.uncovered(claimed, taken)
        spent[cause] += spans.length(free)
        taken += free
    # A judge that is away delays a step by no more than what the step waited for verdicts.
    waited_s = sum(min(spans.length(spans.overlap([span], without)), verdicts.get(span, 0.0)) for span in steps_here)
    waited_s = min(waited_s, spent["productive"])
    spent["productive"] -= waited_s
    spent["judge_wait"] += waited_s
    lives = _lives(allocation, known, [*steps_here, *later], saves, trainers)
    others = _others(allocation, known, trainers)
    drains = [(event.at, allocation.end) for event in known if event.event == "drain_requested"]
    edges = sorted({edge for span in (*without, *others, *drains) for edge in span} | _edges(lives))
    for begin, end in spans.cut(spans.uncovered([(allocation.begin, allocation.end)], taken), edges):
        spent[_cause((begin + end) / 2, lives, others, drains, without)] += end - begin
    return spent


def _cause(
    at: float, lives: Sequence[Life], others: Sequence[Span], drains: Sequence[Span], without: Sequence[Span]
) -> str:
    """Return what a moment went by on in which there was neither a step nor a checkpoint."""
    if spans.covers(drains, at):
        return "drain"
    for life in lives:
        if life.begin <= at < life.end:
            if at < life.up:
                return "start_up"
            if at < life.last:
                return "idle"
            return "drain" if life.done else "unsaved" if life.live else "lost_work"
    if spans.covers(others, at):
        return "other_roles"
    if spans.covers(without, at):
        return "judge_wait"
    return "start_up" if not lives or any(life.begin > at for life in lives) else "idle"


def _lives(
    allocation: Allocation,
    known: Sequence[Event],
    kept: Sequence[Span],
    saves: Sequence[Span],
    trainers: Collection[str],
) -> list[Life]:
    """Return the trainers of an allocation.

    Of one whose steps were all lost nobody knows when it made the first; it is taken to have started up
    as fast as the others of the attempt did.
    """
    runs = [pair for role in trainers for pair in _runs(allocation, known, role)]
    firsts = {run: min((s[0] for s in kept if run[0] <= s[1] <= run[1]), default=None) for run, _ in runs}
    quick_s = [max(0.0, first - run[0]) for run, first in firsts.items() if first is not None]
    usual_s = statistics.median(quick_s) if quick_s else 0.0
    found = []
    for run, code in runs:
        begin, end = run
        live = code is None and allocation.live
        first = firsts[run]
        up = first if first is not None else end if live else min(end, begin + usual_s)
        last = max([span[1] for span in (*kept, *saves) if begin <= span[1] <= end and first is not None], default=up)
        found.append(Life(begin=begin, up=up, last=last, end=end, done=code == 0, live=live))
    return found


def _runs(allocation: Allocation, known: Sequence[Event], role: str) -> Iterator[tuple[Span, int | None]]:
    """Yield begin, end and exit code of every start of a role; no code for one whose end nobody wrote down."""
    began: float | None = None
    for event in known:
        if event.fields.get("role") != role:
            continue
        if event.event == "role_started":
            began = event.at
        elif event.event == "role_finished" and began is not None:
            yield (began, event.at), int(event.fields.get("exit_code", 1))
            began = None
    if began is not None:
        yield (began, allocation.end), None


def _others(allocation: Allocation, known: Sequence[Event], trainers: Collection[str]) -> list[Span]:
    """Return when batch roles other than the trainers were at work and came to an end, or still may."""
    services = _services(known)
    roles = {str(e.fields["role"]) for e in known if e.event == "role_started"} - services - set(trainers)
    runs = [pair for role in sorted(roles) for pair in _runs(allocation, known, role)]
    return [span for span, code in runs if code == 0 or (code is None and allocation.live)]


def _without_service(allocation: Allocation, known: Sequence[Event], trainers: Collection[str]) -> list[Span]:
    """Return when no replica of some service answered, from its first start on."""
    found: list[Span] = []
    for service in _services(known) - set(trainers):
        ready: set[int] = set()
        away: float | None = None
        for event in known:
            if event.fields.get("role") != service:
                continue
            replica = int(event.fields.get("replica", 0))
            if event.event == "role_started" and not ready and away is None:
                away = event.at
            elif event.event == "service_ready":
                if not ready and away is not None:
                    found.append((away, event.at))
                    away = None
                ready.add(replica)
            elif event.event == "role_finished":
                ready.discard(replica)
                if not ready and away is None and not _stopped(event):
                    away = event.at
        if away is not None:
            found.append((away, allocation.end))
    return found


def _services(known: Sequence[Event]) -> set[str]:
    return {str(event.fields["role"]) for event in known if event.event == "service_ready"}


def _stopped(event: Event) -> bool:
    return str(event.fields.get("cause", "")).startswith(("stopped", "drained"))


def _save(event: Event) -> Span:
    """Return when training waited for a checkpoint: while it was copied, not while it was written beside training."""
    began = event.at - float(event.fields["seconds"])
    return began, began + float(event.fields.get("stall_s", event.fields["seconds"]))


def _is_save(event: Event) -> bool:
    return event.event == "checkpoint_committed" and "seconds" in event.fields


def _edges(lives: Iterable[Life]) -> set[float]:
    return {edge for life in lives for edge in (life.begin, life.up, life.last, life.end)}


def _within(allocation: Allocation, found: Iterable[Span]) -> list[Span]:
    """Return the spans that ended in the allocation, none reaching out of it."""
    return [
        (max(begin, allocation.begin), end) for begin, end in sorted(found) if allocation.begin <= end <= allocation.end
    ]
