"""Asking a second time when an answer takes long: of two answers the first counts.

What makes the slowest answers slow is mostly the place where they wait, not the question, so a second request often
overtakes the first. Sent after the 95th percentile, it costs a judge at most a twentieth more.

Source:
    Dean and Barroso, "The tail at scale", Communications of the ACM 56, 2013: hedged requests. We also want proof that
    the judge is up, and a place that nobody else waits for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from jobs.rewards.chat import Reply

Ask = Callable[[float], Coroutine[Any, Any, Reply]]


async def first_answer(
    ask: Ask, *, deadline_s: float, after_s: float, place: Callable[[], AbstractContextManager[bool]]
) -> Reply:
    """Return the answer to one request, or to a second one if that comes first.

    A request that fails is no answer: the other one is waited for. Whichever is not needed is cancelled.

    Args:
        ask: Sends a request that has so many seconds.
        deadline_s: Time for both together.
        after_s: When the second one is sent.
        place: Entered while there may be two requests; says whether the second one may be sent.

    Returns:
        The reply. Its latency is counted from the first request, whichever was answered: with the second one's own
        the percentile after which to ask again would sink with every success.

    Raises:
        Unreachable, Busy, Failed: What the first request raised, if none was answered.
    """
    sent_at = time.monotonic()
    tasks = [asyncio.create_task(ask(deadline_s))]
    try:
        await asyncio.wait(tasks, timeout=after_s)
        if tasks[0].done():
            return tasks[0].result()
        with place() as may_ask:
            if may_ask:
                tasks.append(asyncio.create_task(ask(deadline_s - after_s)))
            reply = await _earliest(tasks)
        return replace(reply, latency_s=time.monotonic() - sent_at)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _earliest(tasks: list[asyncio.Task[Reply]]) -> Reply:
    waiting = set(tasks)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.exception() is None:
                return task.result()
    return tasks[0].result()
