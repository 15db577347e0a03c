"""Which roles may run now: the order of a plan, as pure functions over the roles' phases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.errors import InputError
from orchestrator.plan import Plan, Restarts, Role

LONGEST_BACKOFF_S = 60.0
WRONG_INPUT = InputError.exit_code


class Phase(StrEnum):
    """Where one role is. A role between two starts is WAITING."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class View:
    """What the supervisor knows of all roles at one moment.

    Attributes:
        phases: The phase of every role in the plan.
        ready: Services whose gateway endpoint is published.
    """

    phases: Mapping[str, Phase]
    ready: frozenset[str] = frozenset()


def blockers(role: Role, view: View) -> tuple[str, ...]:
    """Return the roles that ``role`` waits for before it may start, in the plan's words."""
    unfinished = tuple(name for name in role.after if view.phases[name] is not Phase.SUCCEEDED)
    return unfinished + tuple(name for name in role.needs if name not in view.ready)


def wanted(plan: Plan, service: Role, view: View) -> bool:
    """Return whether some unfinished role needs the service, itself or through another service.

    In a plan without a batch role every service is wanted until the run is cancelled.
    """
    if not any(role.kind == "batch" for role in plan.roles):
        return True
    return any(
        service.name in role.needs
        and (wanted(plan, role, view) if role.kind == "service" else view.phases[role.name] is not Phase.SUCCEEDED)
        for role in plan.roles
    )


def may_start(plan: Plan, role: Role, view: View) -> bool:
    """Return whether a waiting role may be started now."""
    if view.phases[role.name] in (Phase.SUCCEEDED, Phase.STOPPED, Phase.STOPPING):
        return False
    return not blockers(role, view) and (role.kind == "batch" or wanted(plan, role, view))


def to_stop(plan: Plan, view: View) -> tuple[str, ...]:
    """Return the services that nobody needs any more, so that none holds a node for nothing."""
    return tuple(
        role.name
        for role in plan.roles
        if role.kind == "service" and view.phases[role.name] is Phase.RUNNING and not wanted(plan, role, view)
    )


def finished(plan: Plan, view: View) -> bool:
    """Return whether every batch role has succeeded, which is what success of a run means."""
    batch = [role for role in plan.roles if role.kind == "batch"]
    return bool(batch) and all(view.phases[role.name] is Phase.SUCCEEDED for role in batch)


@dataclass(frozen=True, kw_only=True)
class Again:
    """Start the role again after a pause: restart ``restart`` of at most ``of``."""

    in_s: float
    restart: int
    of: int


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """Do not start it again; the run ends in ``state``."""

    state: str
    cause: str


def after_failure(role: Role, limits: Restarts, *, code: int, restarts: int, fruitless: int) -> Again | GiveUp:
    """Return what to do with a role that has failed.

    Args:
        role: The role.
        limits: The plan's budgets.
        code: Its exit code; negative for a signal.
        restarts: How often this replica has been started again in this attempt.
        fruitless: How many of the newest of these restarts brought no new checkpoint; always 0
            for a service, which has none.
    """
    if code == WRONG_INPUT:
        return GiveUp(state="FAILED", cause=f"Role {role.name} says that its input is wrong; a restart mends no input.")
    if role.kind == "batch" and restarts and fruitless >= limits.without_progress:
        return GiveUp(
            state="CRASH_LOOP",
            cause=f"Role {role.name} failed again after {fruitless} restart(s) without a new checkpoint.",
        )
    if restarts >= role.restarts:
        return GiveUp(state="FAILED", cause=f"Role {role.name} failed and its {role.restarts} restart(s) are used up.")
    # The first restart is immediate: most failures are single, and every second of a judge's absence is waited for.
    pause_s = min(role.backoff_s * 2 ** (restarts - 1), LONGEST_BACKOFF_S) if restarts else 0.0
    return Again(in_s=pause_s, restart=restarts + 1, of=role.restarts)
