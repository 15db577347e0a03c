"""One chat request over HTTP, and the three ways in which it can fail.

aiohttp rather than the openai package: the package waits 600 s and retries by itself, and costs a
small judge's CPU more than the judge does. The request is the part of the OpenAI API that vLLM and
``transformers serve`` both understand (``max_tokens``; the latter refuses its successor).
"""

from __future__ import annotations

import email.utils
import json
import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp

DEFAULT_RETRY_AFTER_S = 1.0
# No such server, key or model: something else lives at the address by now, or nothing yet.
MISPLACED = {401, 403, 404}
GATEWAY = {502, 503, 504}


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a judge is, by what name, and with which key; the key is never printed."""

    url: str
    model: str
    key: str = field(repr=False)


class Unreachable(Exception):
    """No judge answers at the address. The request was not judged on its merits."""


class Busy(Exception):
    """The judge asks to come back later."""

    def __init__(self, why: str, retry_after_s: float) -> None:
        super().__init__(why, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return str(self.args[0])


class Failed(Exception):
    """The judge, or the way to it, failed on this request."""


class Slow(Failed):
    """The judge did not answer before the deadline."""


class Refused(Failed):
    """The judge will not answer this request, however often it is asked."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the server sent. ``text`` is None where the message has no content."""

    text: str | None
    latency_s: float
    tokens_in: int
    tokens_out: int


async def ask(session: aiohttp.ClientSession, judge: Address, body: dict[str, Any], deadline_s: float) -> Reply:
    """Send one chat request and return the reply.

    Raises:
        Unreachable: Connection refused, gateway without server, wrong key, unknown model.
        Busy: Status 429.
        Failed: Anything else but a chat completion in JSON; ``Slow`` and ``Refused`` are its kinds.
    """
    started = time.monotonic()
    try:
        async with session.post(
            f"{judge.url}/chat/completions",
            json={"model": judge.model, **body},
            headers={"Authorization": f"Bearer {judge.key}"},
            # A redirect would carry the key to somewhere that nobody published.
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=deadline_s, sock_connect=min(5.0, deadline_s)),
        ) as response:
            content = (await response.read()).replace(judge.key.encode(), b"***")
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise Unreachable(f"{type(error).__name__}: {error}") from None
    except TimeoutError:
        raise Slow(f"no answer in {deadline_s:.0f} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Failed(f"{type(error).__name__}: {error}") from None
    _check_status(response.status, response.headers.get("Retry-After"), content)
    return _parsed(content, time.monotonic() - started)


def _check_status(status: int, retry_after: str | None, content: bytes) -> None:
    if status == 200:
        return
    why = f"status {status}: {_beginning(content)}"
    if status in MISPLACED or status in GATEWAY:
        raise Unreachable(why)
    if status == 429:
        raise Busy(why, pause_s(retry_after))
    if status == 408 or status >= 500:
        raise Failed(why)
    raise Refused(why)


def _parsed(content: bytes, latency_s: float) -> Reply:
    try:
        value = json.loads(content)
        text = value["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        raise Failed(f"not a chat completion: {_beginning(content)}") from None
    if text is not None and not isinstance(text, str):
        raise Failed(f"not a chat completion: {_beginning(content)}")
    usage = value.get("usage")
    return Reply(
        text=text,
        latency_s=latency_s,
        tokens_in=_count(usage, "prompt_tokens"),
        tokens_out=_count(usage, "completion_tokens"),
    )


def pause_s(retry_after: str | None) -> float:
    """Return the seconds that a ``Retry-After`` header asks for; one second where it says nothing usable.

    >>> pause_s("5"), pause_s("soon"), pause_s("-3")
    (5.0, 1.0, 0.0)
    """
    if retry_after is None:
        return DEFAULT_RETRY_AFTER_S
    try:
        seconds = float(retry_after)
    except ValueError:
        seconds = _seconds_until(retry_after)
    return max(0.0, seconds) if math.isfinite(seconds) else DEFAULT_RETRY_AFTER_S


def _seconds_until(date: str) -> float:
    try:
        then = email.utils.parsedate_to_datetime(date)
    except ValueError:
        return math.nan
    return (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else 0


def _beginning(content: bytes) -> str:
    return " ".join(content[:200].decode("utf-8", errors="replace").split()) or "(empty)"
