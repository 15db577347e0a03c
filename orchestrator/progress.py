"""What a role is doing right now, for the bar on the terminal, ``status`` and the role's log.

A role that has nothing to report for long is either working or hung; so every wait names what it
waits for and until when, through ``waiting``.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.files import private_folder, read_json, write_json

WRITE_EVERY_S = 0.5
PRINT_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One role's state as last written.

    Attributes:
        role: Its name.
        phase: What it does, in a few words: ``"training"``, ``"loading model"``.
        done: Units finished in this phase.
        total: Units in this phase, None if unknown.
        unit: ``"steps"``, ``"samples"``, ``"s"``.
        message: The newest numbers or what is waited for.
        at: Unix time of writing, seconds.
        started_at: Unix time at which the phase began, seconds.
    """

    role: str
    phase: str
    done: float
    total: float | None
    unit: str
    message: str
    at: float
    started_at: float


class Progress:
    """Writes one role's snapshots, at most two a second, and a log line every few seconds."""

    def __init__(self, folder: Path, role: str) -> None:
        self._path = private_folder(folder) / f"{role}.json"
        self._role = role
        self._phase = ""
        self._started_at = time.time()
        self._written = 0.0
        self._printed = 0.0

    def update(
        self, phase: str, done: float = 0, total: float | None = None, *, unit: str = "", message: str = ""
    ) -> None:
        """Say where the role is. A new phase, or the last unit of one, is always written."""
        now = time.time()
        important = phase != self._phase or (total is not None and done >= total)
        if phase != self._phase:
            self._phase, self._started_at = phase, now
        if important or now - self._written >= WRITE_EVERY_S:
            self._written = now
            snapshot = Snapshot(
                role=self._role,
                phase=phase,
                done=done,
                total=total,
                unit=unit,
                message=message,
                at=now,
                started_at=self._started_at,
            )
            write_json(self._path, asdict(snapshot))
        if important or now - self._printed >= PRINT_EVERY_S:
            self._printed = now
            print(line(phase, done, total, unit, message), file=sys.stderr, flush=True)

    def waiting(self, for_what: str, *, waited_s: float, until_s: float) -> None:
        """Say what is waited for and when the wait gives up."""
        self.update("waiting", round(waited_s, 1), round(until_s, 1), unit="s", message=f"for {for_what}")


def line(phase: str, done: float, total: float | None, unit: str, message: str) -> str:
    """Return one log line: ``training 12/60 steps: reward 0.83``.

    >>> line("training", 12, 60, "steps", "reward 0.83")
    'training 12/60 steps: reward 0.83'
    """
    count = "" if total is None and not done else f" {done:g}" + ("" if total is None else f"/{total:g}")
    return f"{phase}{count}{' ' + unit if unit and count else ''}{': ' + message if message else ''}"


def read(folder: Path) -> list[Snapshot]:
    """Return the newest snapshot of every role that wrote one."""
    snapshots = (read_json(path) for path in sorted(folder.glob("[!.]*.json")))
    return [Snapshot(**snapshot) for snapshot in snapshots if snapshot is not None]


def read_one(folder: Path, role: str) -> Snapshot | None:
    """Return the newest snapshot of one role, or None if it has written none."""
    snapshot = read_json(folder / f"{role}.json")
    return Snapshot(**snapshot) if snapshot is not None else None
