"""A small OpenAI server that answers as a test tells it to.

    async with FakeServer(reply) as server: ... server.url

``reply`` takes a request's body and returns its answer: a text, or a response of its own making.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Reply = Callable[[dict[str, Any]], Awaitable[str | web.Response] | str | web.Response]


def said(body: dict[str, Any]) -> str:
    """Return the words of a request's last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def status(code: int, message: str = "as told", **headers: str) -> web.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response({"error": {"message": message}}, status=code, headers=named)


class FakeServer:
    """The server, from ``async with`` to its end.

    Attributes:
        bodies: Of all requests for an answer.
        most_at_once: Requests that were being answered at the same time, at most.
    """

    def __init__(self, reply: Reply, *, models: tuple[str, ...] = ("m",), key: str = "", after_s: float = 0.0) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._reply = reply
        self._models = models
        self._key = key
        self._after_s = after_s
        application = web.Application(client_max_size=64 * 1024**2)
        application.router.add_post("/v1/chat/completions", self._chat)
        application.router.add_get("/v1/models", self._list)
        self._runner = web.AppRunner(application, shutdown_timeout=0.01)
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    async def __aenter__(self) -> FakeServer:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def _may(self, request: web.Request) -> bool:
        return not self._key or request.headers.get("Authorization") == f"Bearer {self._key}"

    async def _list(self, request: web.Request) -> web.Response:
        if not self._may(request):
            return status(401)
        return web.json_response({"data": [{"id": name, "root": f"/models/{name}"} for name in self._models]})

    async def _chat(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        if not self._may(request):
            return status(401, f"not the key {self._key}")
        if body["model"] not in self._models:
            return status(404, "no such model")
        self.bodies.append(body)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self._after_s)
            found = self._reply(body)
            found = await found if isinstance(found, Awaitable) else found
        finally:
            self._at_once -= 1
        return found if isinstance(found, web.Response) else completion(found)


def completion(text: str | None, *, finish: str = "stop") -> web.Response:
    return web.json_response(
        {
            "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 4},
        }
    )
