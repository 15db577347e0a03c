"""Checkpoints beside training: the policy is copied in memory, which training waits for; writing happens meanwhile.

At most one checkpoint is being written at a time. What goes wrong while writing is raised by the next ``save``
or ``settle``, so nothing is lost silently.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from pathlib import Path
from typing import Protocol

from jobs.entry import Context
from jobs.fence import Fence
from jobs.grpo import checkpoint, journal
from jobs.grpo.checkpoint import Digest, State
from jobs.grpo.settings import Checkpoint
from orchestrator.errors import OrchestratorError


class Saves(Protocol):
    """The part of the workers that has something to save."""

    async def snapshot(self) -> None: ...

    async def write(self, folder: Path) -> dict[str, Digest]: ...


class Saver:
    """Saves states of one run."""

    def __init__(self, context: Context, settings: Checkpoint, workers: Saves, fence: Fence, saved: int) -> None:
        self._context = context
        self._settings = settings
        self._workers = workers
        self._fence = fence
        self._writing: asyncio.Task[None] | None = None
        self._stall_s = 0.0
        self.saved = saved
        """The newest step that is saved, or is being."""

    async def save(self, state: State) -> None:
        """Save ``state`` unless it is saved; return as soon as training may go on."""
        if state.step == self.saved:
            return
        began = time.monotonic()
        await self.settle()
        self._fence.check()
        folder = checkpoint.begin(self._context.run.checkpoints, state.step)
        await self._workers.snapshot()
        self.saved = state.step
        self._writing = asyncio.create_task(self._write(folder, state, began))
        if not self._settings.asynchronous:
            await self.settle()
        self._stall_s += time.monotonic() - began

    async def settle(self) -> None:
        """Wait until what is being written is committed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def close(self) -> None:
        """Wait for what is being written while the run ends for another reason; say so if it failed."""
        step = self.saved
        try:
            await self.settle()
        except (OrchestratorError, OSError) as error:
            print(f"checkpoint of step {step} is not written: {error}", file=sys.stderr, flush=True)

    def stall_s(self) -> float:
        """Return for how long training has waited for checkpoints since the last call, seconds."""
        stall_s, self._stall_s = self._stall_s, 0.0
        return stall_s

    async def _write(self, folder: Path, state: State, began: float) -> None:
        stalled_s = time.monotonic() - began
        try:
            digests = await self._workers.write(folder)
            await asyncio.to_thread(self._commit, folder, state, digests)
        except BaseException:
            # What is half written would only stand in the way of the next attempt where space is short.
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._context.ledger.append(
            "checkpoint_committed",
            step=state.step,
            path=checkpoint.folder_name(state.step),
            seconds=round(time.monotonic() - began, 3),
            stall_s=round(stalled_s, 3),
        )
        # After it is known that this one is committed: a full disk must not make a saved step look unsaved.
        pruned = await asyncio.to_thread(self._prune)
        if pruned:
            self._context.ledger.append("checkpoints_pruned", steps=pruned)

    def _commit(self, folder: Path, state: State, digests: dict[str, Digest]) -> None:
        # Of its own: this is another thread than the loop's.
        fence = Fence(self._context.run.ledger, self._context.generation)
        checkpoint.commit(folder, state, self._context.generation, fence.check, digests)

    def _prune(self) -> list[int]:
        root, keep = self._context.run.checkpoints, self._settings
        pruned = checkpoint.prune(root, keep_last=keep.keep_last, keep_every=keep.keep_every)
        # From the oldest of the newest on: should later ones turn out damaged, the journal leads on from there.
        journal.prune(self._context.run.journal, checkpoint.steps(root)[-keep.keep_last :][0])
        return pruned
