"""One supervised process: a replica of a role, or the gateway, through all its starts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from orchestrator.allocation.launch import Started
from orchestrator.allocation.schedule import Phase

OVERDUE_S = 10.0
"""A guard that has not ended its role this long after the drain's end is killed itself."""


@dataclass(kw_only=True)
class Member:
    """A process that is started, watched, started again and stopped.

    Attributes:
        role: The role's name.
        replica: Its number among the role's replicas.
        log: File name of its log.
        drain_s: How long it may take to stop.
        phase: Where it is.
        started: Its newest process; kept after its end for the record.
        started_at: Monotonic time of the newest start, seconds.
        not_before: Monotonic time before which it is not started again.
        restarts: How often it has been started again in this attempt.
        fruitless: How many of the newest restarts brought no new checkpoint.
        served_at: Monotonic time at which it was last seen serving; None before it first was.
        checkpoints: The committed checkpoints at its newest start.
        seen: The committed checkpoints at the last look.
        in_vain_since: Monotonic time since which Slurm has not started it; None if it has.
        failure: Why it is being ended, if the supervisor decided that it has failed.
    """

    role: str
    replica: int = 0
    log: str
    drain_s: float
    phase: Phase = Phase.WAITING
    started: Started | None = None
    started_at: float = 0.0
    not_before: float = 0.0
    restarts: int = 0
    fruitless: int = 0
    served_at: float | None = None
    checkpoints: frozenset[str] = field(default_factory=frozenset)
    seen: frozenset[str] = field(default_factory=frozenset)
    in_vain_since: float | None = None
    failure: str = ""
    stop_by: float = float("inf")

    @property
    def running(self) -> bool:
        """Whether it has a process that has not been collected."""
        return self.phase in (Phase.RUNNING, Phase.STOPPING)

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.started_at

    def begin(self, started: Started, checkpoints: frozenset[str]) -> None:
        """Take note of a new process."""
        self.started, self.started_at = started, time.monotonic()
        self.phase, self.served_at, self.failure = Phase.RUNNING, None, ""
        self.stop_by, self.checkpoints, self.seen = float("inf"), checkpoints, checkpoints

    def ask_to_stop(self) -> None:
        """Ask it to end, once; the guard kills when ``drain_s`` is over."""
        if self.phase is Phase.RUNNING:
            self.phase = Phase.STOPPING
            self.stop_by = time.monotonic() + self.drain_s + OVERDUE_S
            assert self.started is not None
            self.started.ask_to_stop()

    def kill_if_overdue(self) -> None:
        """Kill a guard that did not keep its promise; what it guarded falls to the supervisor."""
        if self.phase is Phase.STOPPING and self.started is not None and time.monotonic() > self.stop_by:
            self.started.kill()

    def exit_code(self) -> int | None:
        """Return how the process ended, negative for a signal; None while it runs."""
        return self.started.exit_code() if self.running and self.started else None
