"""How many requests the judge is given at once: as many as it stands, found out by trying.

Additive increase, multiplicative decrease, as TCP does it: every answer raises the limit, by one
until the judge first shows that it is full, by one per round after that; every sign of being full
halves it. A constant (512, as published) is too much for a small judge and too little for a large.

Source:
    Jacobson, "Congestion avoidance and control", SIGCOMM 1988.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

HALVE_AT_MOST_EVERY_S = 1.0


class Admission:
    """A gate that lets at most ``limit`` callers be inside, first come, first served.

    Attributes:
        running: Callers inside.
        limit: How many may be.
    """

    def __init__(self, *, most: int, first: int = 32) -> None:
        self.running = 0
        self.limit = float(min(first, most))
        self._most = float(most)
        self._most_running = 0
        self._has_been_full = False
        self._halved_at = -HALVE_AT_MOST_EVERY_S
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._has_room():
            self._enter()
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # Cancelled after being let in but before running again: pass the place on.
            if turn.done() and not turn.cancelled():
                self._leave()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    @contextmanager
    def if_free(self) -> Iterator[bool]:
        """Take a place if one is free and nobody stands in line for it, and say so; never wait."""
        if not self._has_room():
            yield False
            return
        self._enter()
        try:
            yield True
        finally:
            self._leave()

    def take_most(self) -> int:
        """Return how many were inside at once, at most, since the last call."""
        most, self._most_running = self._most_running, self.running
        return most

    def answered(self) -> None:
        """The judge answered: let one more in, later one more per round."""
        step = 1.0 / self.limit if self._has_been_full else 1.0
        self.limit = min(self._most, self.limit + step)

    def full(self) -> None:
        """The judge was too busy or too slow: let half as many in. Signs within a second count once."""
        now = time.monotonic()
        if now - self._halved_at >= HALVE_AT_MOST_EVERY_S:
            self._halved_at, self._has_been_full = now, True
            self.limit = max(1.0, self.limit / 2)

    def _has_room(self) -> bool:
        return not self._waiting and self.running < int(self.limit)

    def _enter(self) -> None:
        self.running += 1
        self._most_running = max(self._most_running, self.running)

    def _leave(self) -> None:
        self.running -= 1
        while self._waiting and self.running < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self._enter()
                turn.set_result(None)
