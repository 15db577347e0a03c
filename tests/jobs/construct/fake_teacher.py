"""A real OpenAI server that plays teacher, extractor and verifier, each by rules that a test can foresee.

It answers from the request alone, as a model at one seed would, and notes every request by its ``Idempotency-Key``.
A problem is "<image>Problem N: ..." whose answer is N + 100; what the teacher makes of it depends on N and on the
candidate, which it sees in the seed.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

KEY = "sk-very-secret"
Step = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse | None]]
FACTS = "<info1>Side AB of figure {n} is labelled x.</info1>\n<info2>Point C{n} lies on the circle.</info2>"


def number_of(body: dict[str, Any]) -> int:
    found = re.search(r"[Pp]roblem (\d+)", json.dumps(body["messages"]))
    assert found is not None
    return int(found.group(1))


def stage_of(body: dict[str, Any]) -> str:
    system = body["messages"][0]["content"] if body["messages"][0]["role"] == "system" else ""
    if "visual facts" in system:
        return "extract"
    return "verify" if "Visual Key Information" in system or "statements about an image" in system else "distil"


def solution(number: int, seed: int) -> str:
    """Even problems are solved at once, those divisible by five never, the others at the second try."""
    right = number % 5 != 0 and (number % 2 == 0 or seed >= 1)
    answer = number + 100 if right else number
    thought = f"In problem {number} AB is labelled x and C{number} lies on the circle."
    return f"<think>\n{thought}\n</think>\n<answer>\n\\boxed{{{answer}}}\n</answer>"


def reply(body: dict[str, Any]) -> str:
    number, stage = number_of(body), stage_of(body)
    if stage == "distil":
        return solution(number, body.get("seed", 0))
    if stage == "verify":
        return "<info1>1</info1> <info2>1</info2>"
    if number % 7 == 0:
        return "There is nothing to be seen."
    return f"{FACTS.format(n=number)}\n<info3>The answer is {number + 100}.</info3>"


def completion(text: str, *, finish: str = "stop", tokens_in: int = 90, tokens_out: int = 10) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "served",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
        },
    }


class FakeTeacher:
    """The server, in a thread of its own, from ``with`` to its end.

    Args:
        step: Looks at a request first; what it returns is the answer, None leaves it to the rules.
        after_s: Seconds that an answer takes.

    Attributes:
        asked: How often each key was asked.
        answered: How often each key was answered with a completion that left whole.
        bodies: Of all requests.
        most_at_once: Requests that were being answered at the same time, at most.
        probes: How often the list of models was asked for.
    """

    def __init__(self, step: Step | None = None, *, after_s: float = 0.0) -> None:
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.most_at_once = 0
        self.probes = 0
        self._at_once = 0
        self._step = step
        self._after_s = after_s
        application = web.Application(client_max_size=64 << 20)
        application.router.add_post("/v1/chat/completions", self._chat)
        application.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(application, shutdown_timeout=0.01)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    def __enter__(self) -> FakeTeacher:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _open(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()

    async def _models(self, _request: web.Request) -> web.StreamResponse:
        self.probes += 1
        return web.json_response({"data": [{"id": "teacher"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"message": f"wrong key {KEY}"}}, status=401)
        key = request.headers["Idempotency-Key"]
        self.asked[key] += 1
        self.bodies.append(body)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            response = await self._step(request, body) if self._step else None
            if response is not None:
                return response
            await asyncio.sleep(self._after_s)
            self.answered[key] += 1
            return web.json_response(completion(reply(body)))
        finally:
            self._at_once -= 1


def fails(status: int, *, times: int = 10**9, headers: dict[str, str] | None = None, text: str = "as told") -> Step:
    """Answer the first so many requests with an error."""
    left = times

    async def step(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse | None:
        nonlocal left
        if left <= 0:
            return None
        left -= 1
        return web.json_response({"error": {"message": text}}, status=status, headers=headers)

    return step
