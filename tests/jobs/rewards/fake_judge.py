"""A small OpenAI server that answers as a test tells it to, published in a run directory.

    async with FakeJudge(run, status(500), says("<info1>1</info1>")) as judge: ...

Each request is answered by the next step, and by the last one for ever; a step may also look at
the request. The client's probes are answered by ``probe`` and counted apart.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from orchestrator import rendezvous
from orchestrator.run_directory import RunDirectory

Step = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def says(reply: str | None, *, after_s: float = 0.0) -> Step:
    async def step(_request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(after_s)
        return completion(reply, model=body["model"])

    return step


def completion(reply: str | None, *, model: str = "m") -> web.Response:
    return web.json_response(
        {
            "object": "chat.completion",
            "model": model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107},
        }
    )


def status(code: int, **headers: str) -> Step:
    async def step(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"error": {"message": "as told"}}, status=code, headers=named)

    return step


def sends(text: str) -> Step:
    """Status 200 and something that is no chat completion."""

    async def step(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(text=text)

    return step


def hangs() -> Step:
    async def step(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(60)
        return completion("late")

    return step


def breaks_off() -> Step:
    async def step(request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"choices": [')
        assert request.transport is not None
        request.transport.abort()
        return response

    return step


class FakeJudge:
    """The server, from ``async with`` to its end.

    Attributes:
        requests: Bodies of all requests but probes.
        most_at_once: Requests that were being answered at the same time, at most.
        probes: How many probes came.
        probe: Answers the next probe.
        model: The name that is answered to; ``publish`` makes it known.
    """

    def __init__(
        self, run: RunDirectory, *steps: Step, model: str = "judge-1", generation: int = 1, probe: Step | None = None
    ) -> None:
        self.requests: list[dict[str, Any]] = []
        self.most_at_once = 0
        self.probes = 0
        self._at_once = 0
        self._run = run
        self._steps = list(steps)
        self.probe = probe or says("1")
        self.model = model
        self._generation = generation
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(application, shutdown_timeout=0.01)

    async def __aenter__(self) -> FakeJudge:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.publish()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def publish(self, *, key: str = "judge") -> None:
        """Write the endpoint's file, as the gateway does."""
        port = self._runner.addresses[0][1]
        rendezvous.publish(
            self._run,
            rendezvous.Endpoint(
                name="judge",
                url=f"http://127.0.0.1:{port}/v1",
                model=self.model,
                api_key_file=str(rendezvous.api_key(self._run, key)),
                generation=self._generation,
                nonce=self.model,
                pid=1,
                host="here",
                lease_until=time.time() + 600,
            ),
        )

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        key = rendezvous.read_key(rendezvous.api_key(self._run, "judge"))
        if request.headers.get("Authorization") != f"Bearer {key}":
            return await status(401)(request, body)
        if body["model"] != self.model:
            return await status(404)(request, body)
        if body["max_tokens"] == 1:
            self.probes += 1
            return await self.probe(request, body)
        return await self._counted(request, body)

    async def _counted(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        self.requests.append(body)
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await step(request, body)
        finally:
            self._at_once -= 1
