"""The reward of the bench, the same for both trainers: given, or asked of a judge over HTTP.

Ours calls it per response, as a reward of one's own (``bench.trl.reward:given``, ``bench.trl.reward:judged``);
TRL for the whole batch, with all requests on their way at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import aiohttp

JUDGE = "BENCH_JUDGE"
"""Environment variable with the judge's address."""
CONNECTIONS = 1024

_sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}


def score(response: str) -> float:
    """Return the share of different characters: it needs no time, and hardly two responses have the same."""
    return len(set(response)) / max(len(response), 1)


def given(_example: object, response: str) -> float:
    """Return the score of one response without a judge."""
    return score(response)


async def judged(_example: object, response: str) -> float:
    """Return the score of one response when the judge has answered."""
    await ask(os.environ[JUDGE])
    return score(response)


async def judged_at_once(judge: str, responses: Sequence[str]) -> list[float]:
    """Return the scores of a batch when the judge has answered to each, asked for all at once."""
    await asyncio.gather(*(ask(judge) for _ in responses))
    return [score(response) for response in responses]


async def ask(judge: str) -> None:
    """Wait for one verdict."""
    async with _session().get(judge) as answer:
        answer.raise_for_status()
        await answer.read()


async def close() -> None:
    """Close the loop's connections; a process that ends may leave that to its end."""
    await _sessions.pop(asyncio.get_running_loop()).close()


def _session() -> aiohttp.ClientSession:
    """Return the loop's connections, kept open from verdict to verdict, until the process ends."""
    loop = asyncio.get_running_loop()
    if loop not in _sessions:
        _sessions[loop] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS))
    return _sessions[loop]
