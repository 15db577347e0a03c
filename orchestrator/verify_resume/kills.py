"""Which processes of a run are killed when: a pure function of a seed; and where a run's training is now.

Where it is, is read from what the run writes anyway: ``metrics.jsonl`` has the steps that are made, the journal
the responses of the step that is being made, ``checkpoints/.step_*.tmp`` is a save under way.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator import ledger, progress
from orchestrator.ledger import Event
from orchestrator.run_directory import RunDirectory

What = Literal["driver", "worker", "preemption"]
Phase = Literal["rollout", "reward", "update", "save"]
PHASES: tuple[Phase, ...] = ("rollout", "reward", "update", "save")
TAIL_BYTES = 1 << 18
"""More than one line of metrics."""
_SAVING = re.compile(r"\.step_(\d{8})\..*\.tmp")


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One planned kill.

    Attributes:
        what: ``driver`` is the role's own process, ``worker`` one of Ray's actors below it, both by SIGKILL;
            ``preemption`` is SIGTERM to the run.
        step: The step in which it is to happen, from 1.
        phase: The part of the step.
        pick: Which of several workers, modulo their number.
    """

    what: What
    step: int
    phase: Phase
    pick: int = 0


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where training is: a step, and what is being done for it."""

    step: int
    phase: Phase


def plan(*, seed: int, count: int, total: int, save_every: int, workers: bool) -> tuple[Kill, ...]:
    """Return the kills in the order in which they are to happen; the same for the same arguments.

    From three kills on one is a preemption; the others alternate between the driver and a worker, whose phases
    take turns, so that enough kills meet every phase. They are spread over the run, none in its last step.

    Args:
        seed: Chooses order, steps, phases and workers.
        count: How many; less than ``total``.
        total: Steps of the run.
        save_every: Steps from one checkpoint to the next.
        workers: Whether there are Ray workers to kill.
    """
    assert 0 < count < total
    chance = random.Random(seed)
    crashes = count - (count >= 3)
    kinds: list[What] = ["worker" if workers and number % 2 else "driver" for number in range(crashes)]
    if count >= 3:
        kinds.append("preemption")
    chance.shuffle(kinds)
    phases = chance.sample(PHASES, len(PHASES))
    found = []
    for number, what in enumerate(kinds):
        part = range(1 + (total - 1) * number // count, 1 + (total - 1) * (number + 1) // count)
        phase = phases[number % len(phases)]
        saves = [step for step in part if step % save_every == 0]
        if phase == "save" and not saves:
            phase = "update"
        step = chance.choice(saves if phase == "save" else list(part))
        found.append(Kill(what=what, step=step, phase=phase, pick=chance.randrange(1 << 16)))
    return tuple(found)


def last_chances(planned: Sequence[Kill], total: int) -> tuple[int, ...]:
    """Return for each kill the step from which on it happens in whatever phase, so that it happens at all."""
    return (*(later.step for later in planned[1:]), total)


def due(kill: Kill, last_chance: int, now: Point) -> bool:
    """Return whether the time of a kill has come: its phase in its step or a later one, or its last chance."""
    return now.step >= kill.step and (now.phase == kill.phase or now.step >= last_chance)


class Lookout:
    """Sees where the training of a run is. Looking costs a few small reads."""

    def __init__(self, run: RunDirectory, role: str) -> None:
        self._run = run
        self._role = role
        self._read = -1
        self._starts: list[Event] = []

    def starts(self) -> list[Event]:
        """Return the starts of the role over all attempts, oldest first."""
        size = self._run.ledger.stat().st_size
        if size != self._read:
            self._read = size
            events = ledger.read(self._run.ledger)
            self._starts = [e for e in events if e.event == "role_started" and e.fields["role"] == self._role]
        return self._starts

    def point(self) -> Point | None:
        """Return where training is; None while it is starting, or does not run."""
        starts, said = self.starts(), progress.read_one(self._run.progress, self._role)
        # What an earlier start has said is still there until the new one speaks.
        if not starts or said is None or said.at < starts[-1].at or said.unit != "steps":
            return None
        saving = self._saving(since=starts[-1].at)
        if saving is not None:
            return Point(step=saving, phase="save")
        step = last_step(self._run.metrics) + 1
        if (self._run.journal / f"step_{step:08d}.jsonl").exists():
            return Point(step=step, phase="update")
        return Point(step=step, phase="reward" if said.message.startswith(f"step {step}:") else "rollout")

    def _saving(self, since: float) -> int | None:
        """Return the step whose checkpoint is being written; folders of dead writers are older than the start."""
        if not self._run.checkpoints.exists():
            return None
        names = [path.name for path in self._run.checkpoints.iterdir()]
        committed = max((int(name[5:]) for name in names if re.fullmatch(r"step_\d{8}", name)), default=0)
        for name in names:
            match = _SAVING.fullmatch(name)
            if match and int(match.group(1)) > committed and _changed_at(self._run.checkpoints / name) >= since:
                return int(match.group(1))
        return None


def last_step(metrics: Path) -> int:
    """Return the step of the last whole line of ``metrics.jsonl``; 0 if there is none."""
    try:
        with metrics.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            whole = file.read().rpartition(b"\n")[0]
    except FileNotFoundError:
        return 0
    return int(json.loads(whole.rpartition(b"\n")[2])["step"]) if whole else 0


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
