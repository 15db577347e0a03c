"""One chat completion over HTTP, told apart by what a failure may have cost.

Like ``jobs.rewards.chat``, whose failures it shares, but it keeps what a paid reply is accounted for by: why it
ended, its name, all its tokens, and the reasoning that some servers send apart.
"""

from __future__ import annotations

import json
import time
from typing import Any

import aiohttp

from jobs.construct.budget import CHARACTERS_A_TOKEN
from jobs.construct.log import Reply
from jobs.construct.request import Request
from jobs.rewards import chat
from orchestrator.errors import InputError

CONNECT_S = 10.0
KEY_OR_MODEL = {401, 403, 404}
NO_CREDIT = b"insufficient_quota"


class Misplaced(Exception):
    """The server does not know our key or our model."""


class Broken(chat.Failed):
    """The request was taken and its answer did not arrive: it may have to be paid for."""


async def ask(session: aiohttp.ClientSession, address: chat.Address, request: Request, timeout_s: float) -> Reply:
    """Send one request and return the reply.

    Raises:
        Unreachable: Nobody took it: connection refused, gateway without a server.
        Misplaced: The server does not know our key or model.
        Busy: Status 429.
        Refused: The request is at fault.
        Broken: It was taken, and no whole answer came.
        Failed: The server has failed and says so.
        InputError: The account has no credit left.
    """
    started = time.monotonic()
    try:
        async with session.post(
            f"{address.url}/chat/completions",
            json=request.body(address.model),
            headers=headers(address) | {"Idempotency-Key": request.key},
            # A redirect would carry the key to somewhere that nobody named.
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_S, timeout_s)),
        ) as response:
            content = await response.read()
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise chat.Unreachable(f"{type(error).__name__}: {error}") from None
    except TimeoutError:
        raise Broken(f"no answer in {timeout_s:.0f} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Broken(f"{type(error).__name__}: {error}") from None
    if address.key:
        content = content.replace(address.key.encode(), b"***")
    check_status(response.status, response.headers.get("Retry-After"), content)
    return parsed(content, time.monotonic() - started)


def headers(address: chat.Address) -> dict[str, str]:
    """Return the headers that carry the key, if there is one."""
    return {"Authorization": f"Bearer {address.key}"} if address.key else {}


def check_status(status: int, retry_after: str | None, content: bytes) -> None:
    """Return if the status is 200.

    Raises:
        Unreachable: A gateway has no server.
        Busy: Status 429.
        Refused: The request is at fault.
        Failed: The server is.
        InputError: The account has no credit left.
    """
    if status == 200:
        return
    why = f"status {status}: {_beginning(content)}"
    if status in KEY_OR_MODEL:
        raise Misplaced(why)
    if status in chat.GATEWAY:
        raise chat.Unreachable(why)
    if NO_CREDIT in content:
        raise InputError(f"The account at the endpoint has no credit left: {why}. Add some and resume.")
    if status == 429:
        raise chat.Busy(why, chat.pause_s(retry_after))
    if status == 408 or status >= 500:
        raise chat.Failed(why)
    raise chat.Refused(why)


def parsed(content: bytes, latency_s: float) -> Reply:
    """Return a chat completion as a reply.

    Raises:
        Failed: It is none.
    """
    try:
        value = json.loads(content)
        choice = value["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Broken(f"not a chat completion: {_beginning(content)}") from None
    if not isinstance(text, str) or not isinstance(reasoning, str):
        raise Broken(f"not a chat completion: {_beginning(content)}")
    tokens_in, tokens_out = _usage(value.get("usage"), text + reasoning)
    return Reply(
        text=f"<think>\n{reasoning}\n</think>\n{text}" if reasoning else text,
        finish=str(choice.get("finish_reason") or ""),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        id=str(value.get("id") or ""),
        served=str(value.get("model") or ""),
        latency_s=round(latency_s, 3),
    )


def _usage(usage: Any, text: str) -> tuple[int, int]:
    """Return tokens of prompt and reply. Where reasoning is counted in the total only, it belongs to the reply."""
    tokens_in, tokens_out, total = (
        _count(usage, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    if not tokens_out and not total:
        tokens_out = len(text) // CHARACTERS_A_TOKEN
    return tokens_in, max(tokens_out, total - tokens_in)


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else 0


def _beginning(content: bytes) -> str:
    return " ".join(content[:300].decode("utf-8", errors="replace").split()) or "(empty)"
