"""What a run is at, for people and for scripts: folded from its ledger and its progress files.

Nothing but these files is read, so it works from any machine that sees the folder, during the run and
after it. What Slurm says of a run that waits in its queue is asked elsewhere (``waiting``) and only added.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator import control, ledger, plan, progress
from orchestrator.ledger import Event
from orchestrator.progress import Snapshot
from orchestrator.run_directory import RunDirectory

if TYPE_CHECKING:
    from orchestrator.waiting import Answer

SCHEMA = 1
ACTIVE = ("starting", "running", "serving")
WAITING = ("NEW", "SUBMITTED", "QUEUED", "LOST")
"""States in which Slurm may know more than the run's files."""
_SAID_AS = {"waiting": "waiting", "stopping": "draining:"}


@dataclass(frozen=True, kw_only=True)
class RoleStatus:
    """One role of a run.

    Attributes:
        role: Its name.
        kind: ``service`` or ``batch``.
        state: ``waiting``, ``starting`` (a service that has not answered), ``running``, ``serving``,
            ``restarting``, ``stopped``, ``failed`` or ``done``.
        phase: What it says it is doing; empty if it says nothing or does not run.
        done: Units finished in this phase.
        total: Units in this phase; None if unknown.
        unit: Of ``done`` and ``total``.
        message: Newest numbers, or why it ended.
        restarts: Starts after the first in the newest attempt.
        eta_s: Seconds until the phase ends at the pace so far; None if that cannot be said.
        silent_s: Seconds since it last said anything; None if it never did.
        again_at: Unix time of its next start, if it is restarting.
    """

    role: str
    kind: str
    state: str = "waiting"
    phase: str = ""
    done: float = 0
    total: float | None = None
    unit: str = ""
    message: str = ""
    restarts: int = 0
    eta_s: float | None = None
    silent_s: float | None = None
    again_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Status:
    """A run and its roles.

    Attributes:
        name: The run's name.
        path: Its folder.
        state: As ``control.state`` says.
        attempt: The newest, from 1; 0 before the first.
        cause: Why it ended; empty while it runs.
        diagnosis: The earliest error of a failed run; may span lines.
        began_at: Unix time of the newest attempt's begin, or of submission.
        ended_at: Unix time of its orderly end; None if it runs or was lost.
        job: The Slurm job that runs or waits; empty if there is none.
        doing: What the supervisor itself does where that is more than to watch its roles, or what the run
            waits for in Slurm; else empty.
        report: Path of ``report.html``; None as long as there is none.
        roles: In the plan's order.
    """

    name: str
    path: str
    state: str
    attempt: int
    cause: str
    diagnosis: str
    began_at: float
    ended_at: float | None
    job: str = ""
    doing: str
    report: str | None
    roles: tuple[RoleStatus, ...]

    @property
    def elapsed_s(self) -> float:
        return max(0.0, (self.ended_at or time.time()) - self.began_at)

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON-like data with a schema version."""
        return {"schema": SCHEMA, **asdict(self), "elapsed_s": round(self.elapsed_s, 1)}


def read(run: RunDirectory, answer: Answer | None = None) -> Status:
    """Return what the run is at now.

    Args:
        run: The run.
        answer: What Slurm has said of it; forgotten if the run has begun since.
    """
    state = control.state(run)
    if state.state not in WAITING:
        answer = None
    if answer is not None and answer.state:
        state = replace(state, state=answer.state, cause=answer.says if answer.state == "LOST" else "")
    events = ledger.read(run.ledger)
    the_plan = plan.load(run.plan)
    roles = _fold(the_plan, events)
    over = state.ended
    at_work = state.state == "RUNNING" or (state.state == "SUBMITTED" and state.executor == "local")
    return Status(
        name=run.name,
        path=str(run.path),
        state=state.state,
        attempt=state.attempt,
        cause=state.cause,
        diagnosis=state.diagnosis or (_what_logs_say(run, state.attempt) if state.state == "LOST" else ""),
        began_at=_time_of(events, ("submitted", "attempt_started")) or time.time(),
        ended_at=_time_of(events, ("run_finished",)) if over else None,
        job=state.job,
        doing="" if over else answer.says if answer is not None else _doing(run),
        report=str(run.report) if run.report.exists() else None,
        roles=tuple(describe(_held_up(role, the_plan, roles), run) if at_work else _halted(role) for role in roles),
    )


def describe(role: RoleStatus, run: RunDirectory) -> RoleStatus:
    """Return the role with what it says of itself, if it is at work; a word from before it stopped is no news."""
    snapshot = progress.read_one(run.progress, role.role) if role.state in ACTIVE else None
    if snapshot is None:
        return role
    return replace(
        role,
        phase=snapshot.phase,
        done=snapshot.done,
        total=snapshot.total,
        unit=snapshot.unit,
        message=snapshot.message,
        eta_s=_eta_s(snapshot),
        silent_s=round(max(0.0, time.time() - snapshot.at), 1),
    )


def line(role: RoleStatus) -> str:
    """Return one role in one line: ``train: training 12/60 steps: reward 0.83 (ETA 3:12)``."""
    if role.state not in ACTIVE or not role.phase:
        again = f"; again in {clock(max(0.0, role.again_at - time.time()))}" if role.again_at is not None else ""
        return (
            f"{role.role}: {role.state}" + (f": {role.message}" if role.message not in ("", role.state) else "") + again
        )
    said = progress.line(role.phase, role.done, role.total, role.unit, role.message)
    return f"{role.role}: {said}" + (f" (ETA {clock(role.eta_s)})" if role.eta_s is not None else "")


def clock(span_s: float) -> str:
    """Return a span of time as people read it.

    >>> clock(192), clock(7384)
    ('3:12', '2:03:04')
    """
    minutes, seconds = divmod(int(span_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def story(event: Event) -> str:
    """Return an event of the ledger as a sentence for whoever watches; empty for what need not be told."""
    known = event.fields
    if event.event == "attempt_started":
        return f"attempt {known.get('attempt')} started on {known.get('host')}"
    if event.event == "service_ready":
        return f"{known.get('role')} answers at {known.get('url')}"
    if event.event == "role_finished":
        return f"{known.get('role')} ended: {known.get('cause')}"
    if event.event == "role_restarting":
        which = f"restart {known.get('restart')} of {known.get('of')}"
        return f"{known.get('role')} starts again in {known.get('in_s')} s, {which}: {known.get('cause')}"
    if event.event in ("gateway_restarted", "warning"):
        return f"{known.get('what', 'gateway')}: {known.get('cause', event.event)}"
    if event.event == "drain_requested":
        return f"draining, asked by {known.get('by')}"
    if event.event == "successor_queued":
        return f"job {known.get('job_id')} is queued to take over if this one ends early"
    if event.event == "role_not_started":
        return f"{known.get('role')} could not be started by Slurm, and is tried again: {known.get('cause')}"
    if event.event == "service_job_queued":
        return f"job {known.get('job_id')} is queued to serve {known.get('group')}"
    if event.event == "attempt_lost":
        return f"attempt {known.get('attempt')} ended without a word ({known.get('kind')}): {known.get('cause')}"
    if event.event == "nodes_excluded":
        return f"the next job avoids {', '.join(known.get('nodes', []))}"
    if event.event == "run_finished" and known.get("state") == "DRAINED":
        return f"attempt {event.generation} drained ({known.get('kind', 'drained')}): {known.get('cause')}"
    return ""


def _fold(the_plan: plan.Plan, events: Iterable[Event]) -> list[RoleStatus]:
    """Return the roles' states. Batch roles that have succeeded stay done in later attempts."""
    roles = {role.name: RoleStatus(role=role.name, kind=role.kind) for role in the_plan.roles}

    def outlives(name: str) -> bool:
        """Whether the role runs in a job of its own, which a new attempt of the trainer's leaves alone."""
        return the_plan.placement.kind == "pair" and the_plan.role(name).group > 0

    for event in events:
        if event.event == "attempt_started":
            roles = {
                name: role if role.state == "done" or outlives(name) else RoleStatus(role=name, kind=role.kind)
                for name, role in roles.items()
            }
        name = event.fields.get("role")
        if name in roles:
            roles[name] = _after(roles[name], event)
    return list(roles.values())


def _after(role: RoleStatus, event: Event) -> RoleStatus:
    known = event.fields
    if event.event == "role_started":
        return replace(role, state="starting" if role.kind == "service" else "running", message="", again_at=None)
    if event.event == "service_ready":
        return replace(role, state="serving")
    if event.event == "role_restarting":
        return replace(
            role,
            state="restarting",
            restarts=role.restarts + 1,
            message=str(known.get("cause", "")),
            again_at=event.at + float(known.get("in_s", 0.0)),
        )
    if event.event == "role_finished":
        return replace(role, state=_end(role, known), message=str(known.get("cause", "")))
    return role


def _end(role: RoleStatus, known: dict[str, Any]) -> str:
    if role.kind == "batch" and known.get("exit_code") == 0:
        return "done"
    return "stopped" if str(known.get("cause", "")).startswith(("stopped", "drained")) else "failed"


def _held_up(role: RoleStatus, the_plan: plan.Plan, roles: list[RoleStatus]) -> RoleStatus:
    """Return a waiting role with the names of those it waits for."""
    if role.state != "waiting":
        return role
    states = {other.role: other.state for other in roles}
    planned = the_plan.role(role.role)
    others = [name for name in planned.after if states[name] != "done"]
    others += [name for name in planned.needs if states[name] != "serving"]
    return replace(role, message=f"for {', '.join(others)}" if others else "")


def _halted(role: RoleStatus) -> RoleStatus:
    """Return the role as it is when no supervisor lives any more: nothing of it runs."""
    return replace(role, state="stopped", again_at=None) if role.state in (*ACTIVE, "restarting") else role


def _doing(run: RunDirectory) -> str:
    """Return what the supervisor waits for, or that it drains; that it is running the roles show."""
    snapshot = progress.read_one(run.progress, "run")
    if snapshot is None or snapshot.phase not in _SAID_AS:
        return ""
    return f"{_SAID_AS[snapshot.phase]} {snapshot.message}".rstrip()


def _eta_s(snapshot: Snapshot) -> float | None:
    # A phase counted in seconds counts towards a deadline, not towards an end.
    if not snapshot.total or snapshot.done <= 0 or snapshot.unit == "s" or snapshot.done >= snapshot.total:
        return None
    spent_s = snapshot.at - snapshot.started_at
    return round(spent_s / snapshot.done * (snapshot.total - snapshot.done), 1)


def _time_of(events: list[Event], names: tuple[str, ...]) -> float | None:
    return next((event.at for event in reversed(events) if event.event in names), None)


def _what_logs_say(run: RunDirectory, attempt: int) -> str:
    """Return the first error in the logs of an attempt that ended before anybody could diagnose it.

    Logs carry no common clock; the one whose last write is oldest is that of the role that fell silent first.
    """
    from orchestrator.allocation import diagnosis

    for log in sorted(run.attempt(attempt).glob("*.log"), key=lambda log: log.stat().st_mtime):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        found = diagnosis.first_error(lines, log.stem, f"attempts/{attempt}/{log.name}")
        if found is not None:
            return str(found)
    return ""
