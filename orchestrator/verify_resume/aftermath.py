"""How a run went on after each kill: from which checkpoint, and which steps it made again from its journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.ledger import Event
from orchestrator.verify_resume.comparison import Check, Difference
from orchestrator.verify_resume.disturbance import Blow


@dataclass(frozen=True, kw_only=True)
class Aftermath:
    """What followed one kill.

    Attributes:
        resumed_from: The step of the checkpoint; 0 for none.
        replayed: Steps made again from the journal: nothing was generated or judged for them.
    """

    resumed_from: int
    replayed: tuple[int, ...]


def of(blows: Sequence[Blow], events: Sequence[Event]) -> list[Aftermath | None]:
    """Return what followed each kill, None for one that did not happen."""
    found: list[Aftermath | None] = []
    for number, blow in enumerate(blows):
        until = next((later.at for later in blows[number + 1 :] if later.at is not None), float("inf"))
        found.append(None if blow.at is None else _between(events, blow.at, until))
    return found


def _between(events: Sequence[Event], begin: float, end: float) -> Aftermath:
    mine = [event for event in events if begin <= event.at < end]
    return Aftermath(
        resumed_from=next((int(event.fields["step"]) for event in mine if event.event == "resumed"), 0),
        replayed=tuple(sorted({s for event in mine if event.event == "replayed" for s in event.fields["steps"]})),
    )


def collected_once(blows: Sequence[Blow], events: Sequence[Event]) -> Check:
    """Check that no step was generated and judged again that had been made before a kill."""
    again = 0
    difference = None
    for number, (blow, after) in enumerate(zip(blows, of(blows, events), strict=True), 1):
        if after is None or blow.point is None:
            continue
        steps = [step for step in range(after.resumed_from + 1, blow.point.step) if step not in after.replayed]
        again += len(steps)
        if steps and difference is None:
            what = (
                f"After kill {number} step {steps[0]} was generated and judged again, though it had been made before."
            )
            difference = Difference(step=steps[0], what=what)
    return Check(name="steps collected again", straight=0, killed=again, difference=difference)
