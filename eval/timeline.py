"""A run's ledger as people read it: attempts, who ran when, what went wrong, where the time went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.record import Steps
from orchestrator.ledger import Event
from orchestrator.status import story

Kind = Literal["plain", "good", "warning", "bad"]
MarkKind = Literal["fault", "drain", "checkpoint"]
_BAD = ("fail", "crash", "killed", "error")
_WARNING = ("restart", "drain", "cancel", "warning")
_GOOD = ("succeeded", "ready")
DRAINED = 75
_FAILED = ("FAILED", "CRASH_LOOP")
_NO_FAULT = ("", "done", "cancelled", "drained", "time_limit", "superseded")
"""How an attempt ends without anything having gone wrong."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One role's time in one start, as shares of the whole time."""

    left: float
    width: float
    seconds: float
    kind: Kind
    note: str


@dataclass(frozen=True, kw_only=True)
class Lane:
    """Everything one role did."""

    role: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A moment on the time line.

    Attributes:
        kind: ``fault``, ``drain`` or ``checkpoint``.
        left: Where it lies, as a share of the whole time.
        at: Unix time, seconds.
        attempt: The attempt it happened in.
        text: What happened.
    """

    kind: MarkKind
    left: float
    at: float
    attempt: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Span:
    """A named piece of time, seconds."""

    name: str
    seconds: float


def state(events: Sequence[Event], batch_roles: Iterable[str] = ()) -> str:
    """Return the state that the newest attempt ended in, or ``UNFINISHED``.

    A run whose batch roles have all succeeded is ``SUCCEEDED`` already: the report is written just
    before the supervisor records the end, so that the end means that nothing more will change.
    """
    if not events:
        return "NOT STARTED"
    if events[-1].event == "run_finished":
        return str(events[-1].fields.get("state", "FINISHED"))
    done = {e.fields.get("role") for e in events if e.event == "role_finished" and e.fields.get("exit_code") == 0}
    roles = set(batch_roles)
    return "SUCCEEDED" if roles and roles <= done else "UNFINISHED"


def attempts_s(events: Iterable[Event]) -> list[float]:
    """Return the wall time of every attempt, from its first event to its last, seconds."""
    times: dict[int, list[float]] = {}
    for event in events:
        if event.generation > 0:
            times.setdefault(event.generation, []).append(event.at)
    return [max(of) - min(of) for of in times.values()]


def kind(event: Event) -> Kind:
    """Return how an event should look: by its exit code if it has one, else by its name and state."""
    if event.event == "role_finished":
        return _kind_of_end(event.fields.get("exit_code"), str(event.fields.get("cause", "")))
    text = f"{event.event} {event.fields.get('state', '')}".lower()
    kinds: tuple[tuple[tuple[str, ...], Kind], ...] = ((_BAD, "bad"), (_WARNING, "warning"), (_GOOD, "good"))
    return next((found for words, found in kinds if any(word in text for word in words)), "plain")


def lanes(events: Sequence[Event]) -> list[Lane]:
    """Return one lane a role, in the order of first starts."""
    if not events:
        return []
    begin, end = min(e.at for e in events), max(e.at for e in events)
    length = max(end - begin, 1e-3)
    bars: dict[str, list[Bar]] = {}
    for role, start, stop in _stays(events):
        until = stop.at if stop else end
        bars.setdefault(role, []).append(
            Bar(
                left=(start.at - begin) / length,
                width=max((until - start.at) / length, 0.002),
                seconds=until - start.at,
                kind=kind(stop) if stop else "plain",
                note=str(stop.fields.get("cause", stop.event)) if stop else "has not ended",
            )
        )
    return [Lane(role=role, bars=tuple(of)) for role, of in bars.items()]


def training_time(steps: Steps) -> list[Span]:
    """Return where the trainer's time went; empty without steps."""
    total = steps.total("timing_s/step")
    spans = [
        Span(name="generation", seconds=steps.total("timing_s/gen")),
        Span(name="waiting for the judge", seconds=steps.total("judge/wait_after_gen_s")),
        Span(name="update", seconds=steps.total("timing_s/update_actor")),
        Span(name="checkpoints", seconds=steps.total("timing_s/save_checkpoint")),
    ]
    rest = total - sum(span.seconds for span in spans)
    lost = Steps(rows=steps.redone).total("timing_s/step")
    extra = [Span(name="other", seconds=max(rest, 0.0)), Span(name="steps done again", seconds=lost)]
    return [span for span in (*spans, *extra) if span.seconds > 0]


def marks(events: Sequence[Event]) -> list[Mark]:
    """Return what interrupted the run and what saved it, in the order of the ledger.

    A role that is told to stop, or drains, did not fail; that the run drains has a mark of its own.
    """
    if not events:
        return []
    begin, end = min(e.at for e in events), max(e.at for e in events)
    length = max(end - begin, 1e-3)
    found = []
    for event in events:
        name = _mark(event)
        if name:
            text = _told(event)
            found.append(
                Mark(kind=name, left=(event.at - begin) / length, at=event.at, attempt=event.generation, text=text)
            )
    return found


def _mark(event: Event) -> MarkKind | None:
    if event.event == "checkpoint_committed":
        return "checkpoint"
    if event.event == "drain_requested":
        return "drain"
    if event.event in ("attempt_lost", "gateway_restarted", "role_not_started"):
        return "fault"
    if event.event == "role_finished" and kind(event) == "bad":
        return "fault"
    if event.event == "run_finished":
        ended_well = event.fields.get("kind", "") in _NO_FAULT and event.fields.get("state") not in _FAILED
        return None if ended_well else "fault"
    return None


def _told(event: Event) -> str:
    known = event.fields
    if event.event == "checkpoint_committed":
        return f"checkpoint of step {known.get('step')}"
    if event.event == "role_finished":
        return f"{_role(event)}: {known.get('cause', 'failed')}"
    return story(event) or f"{event.event.replace('_', ' ')}: {known.get('cause', '')}".rstrip(": ")


def seconds(value: float) -> str:
    """Return a duration for people.

    >>> seconds(0.42), seconds(42.3), seconds(372), seconds(7300), seconds(180000)
    ('0.4 s', '42 s', '6 min 12 s', '2 h 1 min', '2 d 2 h')
    """
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


def _stays(events: Sequence[Event]) -> list[tuple[str, Event, Event | None]]:
    stays: list[tuple[str, Event, Event | None]] = []
    running: dict[str, Event] = {}
    for event in events:
        role = _role(event)
        if not role:
            continue
        if event.event == "role_started":
            stays += [(role, running.pop(role), event)] if role in running else []
            running[role] = event
        elif event.event == "role_finished" and role in running:
            stays.append((role, running.pop(role), event))
    stays += [(role, start, None) for role, start in running.items()]
    return sorted(stays, key=lambda stay: stay[1].at)


def _role(event: Event) -> str:
    role, replica = event.fields.get("role"), event.fields.get("replica")
    return f"{role}-{replica}" if role and replica else str(role or "")


def _kind_of_end(exit_code: object, cause: str) -> Kind:
    if exit_code == DRAINED:
        return "warning"
    if exit_code == 0:
        return "good"
    # A service is told to stop when nobody needs it any more, and then its exit code says nothing.
    return "plain" if cause.startswith("stopped") else "bad"
