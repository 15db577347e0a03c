"""Waiting for work that is abandoned as soon as the job is asked to stop, or may not go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from jobs.entry import Drain

T = TypeVar("T")
POLL_S = 0.1
CHECK_EVERY_S = 1.0
CANCEL_S = 10.0


class Draining(Exception):
    """The job was asked to stop while it waited."""


async def unless_draining(work: Awaitable[T], drain: Drain, check: Callable[[], None]) -> T:
    """Return the result of ``work``; cancel it if something more urgent comes first.

    Args:
        work: What to wait for. Not even begun if the job is asked to stop already: work that is quick
            enough to end between two looks would otherwise never be abandoned.
        drain: Whether the job is asked to stop.
        check: Called once a second; raises if this process may not go on.

    Raises:
        Draining: The job was asked to stop.
    """
    task = asyncio.ensure_future(work)
    checked_at = time.monotonic()
    try:
        if drain.requested:
            raise Draining
        while not task.done():
            await asyncio.wait([task], timeout=POLL_S)
            if task.done():
                break
            if drain.requested:
                raise Draining
            if time.monotonic() - checked_at >= CHECK_EVERY_S:
                checked_at = time.monotonic()
                check()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=CANCEL_S)
    return task.result()
