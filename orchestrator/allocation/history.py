"""What earlier attempts of a run came to, and whether there may be another: pure functions over the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from orchestrator.allocation.schedule import GiveUp
from orchestrator.ledger import Event
from orchestrator.plan import Restarts

UNKNOWN = "unknown"
SUPERSEDED = "superseded"
"""The end of an attempt that noticed a newer one; why Slurm started that one is what the newer one records."""
CAUSES = {
    "preempted": "after a preemption",
    "time_limit": "at its time limit",
    "node_failure": "after the loss of a node",
    "crash": "after a crash",
}
"""Kinds of ends that have a budget, in words. A run that a person asked to stop, and continued, has used none."""
BLAMED_AFTER = 2
"""So many failures on one node, and none elsewhere since, are the node's."""
LONGEST_PAUSE_S = 480.0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One earlier attempt.

    Attributes:
        number: From 1.
        kind: How it ended: a key of ``CAUSES``, ``drained``, ``cancelled``, ``done`` or ``unknown``.
        progressed: Whether it committed anything: a checkpoint, work that is not repeated, or a finished batch role.
        job: The Slurm job that ran it; empty for none.
        ended: Whether its own supervisor wrote its end.
    """

    number: int
    kind: str
    progressed: bool
    job: str = ""
    ended: bool = True


def attempts(events: Iterable[Event]) -> list[Attempt]:
    """Return the attempts of a ledger, oldest first; the newest one may still be running."""
    found: dict[int, Attempt] = {}
    for event in events:
        number, known = event.generation, event.fields
        if event.event == "attempt_started":
            found[number] = Attempt(
                number=number, kind=UNKNOWN, progressed=False, job=str(known.get("job_id", "")), ended=False
            )
        elif event.event == "attempt_lost" and known["attempt"] in found:
            found[known["attempt"]] = _but(found[known["attempt"]], kind=known["kind"])
        elif number in found and event.event == "drain_understood":
            found[number] = _but(found[number], kind=known["kind"])
        elif number in found and event.event == "run_finished" and known.get("kind") != SUPERSEDED:
            found[number] = _but(found[number], kind=known.get("kind", UNKNOWN), ended=True)
        elif number in found and _is_progress(event):
            found[number] = _but(found[number], progressed=True)
    return sorted(found.values(), key=lambda attempt: attempt.number)


def since_submitted(found: Sequence[Attempt], job: str) -> list[Attempt]:
    """Return the attempts since a person last submitted the run: a `resume` begins all budgets anew.

    Args:
        found: All attempts, oldest first.
        job: The job that was submitted, which ``run.json`` names; empty if it names none.
    """
    first = next((i for i, attempt in enumerate(found) if job and attempt.job == job), 0)
    return list(found[first:])


def verdict(limits: Restarts, earlier: Sequence[Attempt]) -> GiveUp | None:
    """Return why there may be no further attempt; None if there may be one.

    Every cause has a budget of its own. Attempts that ended by preemption are the cluster's doing
    and count neither as failures nor as attempts without progress.
    """
    allowed = {
        "preempted": limits.preempted,
        "time_limit": limits.time_limit,
        "node_failure": limits.node_failure,
        "crash": limits.crash,
    }
    used = Counter(attempt.kind for attempt in earlier)
    for kind, limit in allowed.items():
        if limit is not None and used[kind] > limit:
            return GiveUp(
                state="FAILED", cause=f"The run ended {used[kind]} times {CAUSES[kind]}; the recipe allows {limit}."
            )
    fruitless = _fruitless(earlier)
    if fruitless >= limits.without_progress:
        return GiveUp(
            state="CRASH_LOOP",
            cause=f"{fruitless} attempts in a row ended without a newly committed step or finished role.",
        )
    return None


def pause_s(earlier: Sequence[Attempt], unit_s: float) -> float:
    """Return how long the next attempt is to wait: 1, 2, 4 units after two, three, four crashes in a row without
    progress.
    """
    crashes = 0
    for attempt in reversed(earlier):
        if attempt.kind != "crash" or attempt.progressed:
            break
        crashes += 1
    return min(unit_s * 2 ** (crashes - 2), LONGEST_PAUSE_S) if crashes > 1 else 0.0


def blamed(events: Iterable[Event]) -> tuple[str, ...]:
    """Return the nodes that the next attempt should avoid, by the evidence of the ledger.

    A node is blamed on which a role failed, or which was lost, ``BLAMED_AFTER`` times while the
    same role did not fail on any other node in between: then it is not the role.
    """
    streaks: dict[str, tuple[str, int]] = {}
    found: dict[str, None] = {}
    for event in events:
        nodes = event.fields.get("nodes_blamed", [])
        role = str(event.fields.get("role", ""))
        for node in nodes:
            last, count = streaks.get(role, ("", 0))
            streaks[role] = (node, count + 1 if node == last else 1)
            if streaks[role][1] >= BLAMED_AFTER:
                found[node] = None
    return tuple(found)


def _fruitless(earlier: Sequence[Attempt]) -> int:
    count = 0
    for attempt in reversed(earlier):
        if attempt.progressed:
            break
        count += attempt.kind not in ("preempted", "cancelled")
    return count


def _is_progress(event: Event) -> bool:
    return event.event in ("checkpoint_committed", "work_committed") or (
        event.event == "role_finished" and event.fields.get("cause") == "done"
    )


def _but(attempt: Attempt, **changes: object) -> Attempt:
    return replace(attempt, **changes)  # type: ignore[arg-type]
