"""The front: the judge's one door, which asks every visitor for the key and opens to a few paths only.

The server itself listens where nobody else comes. vLLM leaves half of its paths open to whoever
reaches them, among them ``/pause`` and ``/update_weights``, whatever key it was given. The front
is a thread of the judge's process, so it answers exactly as long as the process lives that
publishes it. Answers are passed on whole; streaming is not offered, as at the gateway.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import threading
from collections.abc import AsyncIterator, Callable

import aiohttp
from aiohttp import web

from jobs.judge.server import HOST, Server

PATHS = {
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/v1/models": "GET",
    "/health": "GET",
    "/metrics": "GET",
}
LARGEST_BODY = 64 << 20
START_TIMEOUT_S = 30.0


class Front:
    """A listening front, passing on to ``server``.

    Args:
        server: What stands behind; may not listen yet, which looks as if nobody did.
        key: What clients present, and what the server is given.
        host: The address to listen on. The port is the kernel's choice.
        failed: Called, in the front's thread, if the front ends before ``close``.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, server: Server, *, key: str, host: str, failed: Callable[[BaseException], None]) -> None:
        self._server = server
        self._authorization = f"Bearer {key}"
        self._listener = socket.create_server((host, 0), backlog=1024)
        self.port = int(self._listener.getsockname()[1])
        self._upstream: aiohttp.ClientSession | None = None
        self._failed = failed
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)
        self._thread.start()
        self._listening.wait(START_TIMEOUT_S)

    def close(self) -> None:
        """Stop listening; open requests are cut off after a second."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(timeout=10.0)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that can end the process
            self._failed(error)
        finally:
            self._listening.set()
            self._listener.close()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=LARGEST_BODY)
        app.router.add_route("*", "/{path:.*}", self._answer)
        app.cleanup_ctx.append(self._connected)
        # Cancelled handlers free the server's place when a client has gone away.
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.SockSite(runner, self._listener, backlog=1024).start()
        self._listening.set()
        await self._closing.wait()
        await runner.cleanup()

    async def _connected(self, _app: web.Application) -> AsyncIterator[None]:
        uds = self._server.uds
        # The server decides how many requests it serves at once; a limit here would queue unseen.
        connector = aiohttp.UnixConnector(uds, limit=0) if uds else aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._upstream:
            yield

    async def _answer(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        assert self._upstream is not None
        server = "judge" if self._server.uds else f"{HOST}:{self._server.port}"
        try:
            async with self._upstream.request(
                request.method,
                f"http://{server}{request.path}",
                data=await request.read() if request.method == "POST" else None,
                headers={"Authorization": self._authorization, "Content-Type": "application/json"},
                allow_redirects=False,
            ) as response:
                kind = response.headers.get("Content-Type", "application/octet-stream")
                return web.Response(status=response.status, body=await response.read(), headers={"Content-Type": kind})
        except aiohttp.ClientError:
            # No answer is no answer here either: the gateway takes a broken connection for a death
            # and sends the request elsewhere, while an error status would be the server's own word.
            if request.transport is not None:
                request.transport.abort()
            return problem(502, "The server behind gave no answer.")

    def _refusal(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("Authorization", "").encode("utf-8", errors="replace")
        if not hmac.compare_digest(given, self._authorization.encode()):
            return problem(401, "Wrong or missing key.")
        method = PATHS.get(request.path)
        if method is None:
            return problem(404, f"{request.path} is not served. Served: {', '.join(PATHS)}.")
        if method != request.method:
            return problem(405, f"{request.path} answers {method} only, not {request.method}.")
        return None


def problem(status: int, message: str) -> web.Response:
    """Return an error in the form of the OpenAI API."""
    return web.json_response({"error": {"message": message, "code": status}}, status=status)
