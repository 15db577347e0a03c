"""The circuit breaker: while the judge is down, scoring pauses; nothing is scored by guessing.

It opens when a request fails and nobody else was answered meanwhile, and asks the judge a small
question at once. An answer closes it again: the failure was the request's own. Without one everybody
waits, and the failures that led here are the judge's. A run neither learns from an outage nor dies by
it: only when it outlasts its budget is ``JudgeOutage`` raised, for the trainer to save and to end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from orchestrator.errors import OrchestratorError
from orchestrator.progress import Progress

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0


class JudgeOutage(OrchestratorError):
    """The judge did not answer for longer than the outage budget. Save, and end for a restart."""


class Breaker:
    """Knows whether the judge is down.

    Args:
        who: The judge's role, for messages.
        probe: Asks the judge a small question; returns "" if it answered, else why it did not.
        budget_s: Longest outage to wait out.
        progress: Where to say what is waited for.
    """

    def __init__(
        self, *, who: str, probe: Callable[[], Awaitable[str]], budget_s: float, progress: Progress | None
    ) -> None:
        self._who = who
        self._probe = probe
        self._budget_s = budget_s
        self._progress = progress
        self._answered_at = -1.0
        self._finished_s = 0.0
        self._opened_at: float | None = None
        self._watch: asyncio.Task[bool] | None = None
        self._lost = ""

    @property
    def open_s(self) -> float:
        """Seconds of outage so far, finished ones and the present one."""
        return self._finished_s + (0.0 if self._opened_at is None else time.monotonic() - self._opened_at)

    def answered(self) -> None:
        """A request was answered just now."""
        self._answered_at = time.monotonic()

    def has_answered_since(self, at: float) -> bool:
        """Return whether the judge answered anybody since ``at``, by the monotonic clock: then it is up."""
        return self._watch is None and self._answered_at >= at

    async def passed(self) -> None:
        """Return at once if the judge is up, else when it is again.

        Raises:
            JudgeOutage: The outage has outlasted its budget.
        """
        while self._watch is not None:
            await self._seen(self._watch)

    async def is_down(self, why: str, *, sent_at: float | None = None) -> bool:
        """Return whether the judge, not the request, is to blame for a failure; if so, when it is up again.

        Args:
            why: How the request failed.
            sent_at: When it was sent, by the monotonic clock; an answer to somebody else since then
                proves that the judge is up. None for a request that met no judge at all.

        Raises:
            JudgeOutage: The outage has outlasted its budget.
        """
        if self._watch is None:
            if sent_at is not None and self.has_answered_since(sent_at):
                return False
            self._opened_at = time.monotonic()
            self._watch = asyncio.get_running_loop().create_task(self._until_answered(why))
        return await self._seen(self._watch)

    async def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    async def _seen(self, watch: asyncio.Task[bool]) -> bool:
        # Shielded: one caller that is cancelled must not end the watch of all the others.
        was_down = await asyncio.shield(watch)
        if self._lost:
            raise JudgeOutage(self._lost)
        return was_down

    async def _until_answered(self, why: str) -> bool:
        assert self._opened_at is not None
        pause_s = FIRST_PAUSE_S
        was_down = False
        while reason := await self._probe():
            was_down, why = True, reason
            left_s = self._budget_s - (time.monotonic() - self._opened_at)
            if left_s <= 0:
                # The watch stays, so that whoever comes later learns of the outage too.
                self._lost = self._message(why)
                return True
            self._show(why)
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
        self._finished_s, self._opened_at, self._watch = self.open_s, None, None
        return was_down

    def _show(self, why: str) -> None:
        if self._progress is not None and self._opened_at is not None:
            waited_s = time.monotonic() - self._opened_at
            self._progress.waiting(f"judge {self._who!r}: {why}", waited_s=waited_s, until_s=self._budget_s)

    def _message(self, why: str) -> str:
        assert self._opened_at is not None
        return (
            f"judge {self._who!r}: It has not answered for {time.monotonic() - self._opened_at:.1f} s ({why}), more "
            f"than outage_budget_s={self._budget_s:g}. Its log says why; the run can be resumed when it is back."
        )
