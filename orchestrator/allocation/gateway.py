"""The gateway: one stable URL for all replicas of all services of a run.

    python -m orchestrator.allocation.gateway --run-dir runs/geo3k

``http://HOST:PORT/<role>/v1/...`` leads to the replica with the fewest open requests. Clients use
the gateway's key and the role's name as the model; replicas get their own key and the nonce
name of their newest start, so a wrong or old server answers 401 or 404 and is dropped. The death
of a replica is latency, not an error: a request without an answer goes to another replica or
waits for the restarted one. Answers are read to their end before their first byte is passed
on, which is what makes that possible; streaming is not offered.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import os
import secrets
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from orchestrator import plan, rendezvous
from orchestrator.allocation.gateway_process import listening_socket, state_file
from orchestrator.allocation.replicas import Pool, Replica
from orchestrator.files import write_json
from orchestrator.plan import Plan, Role
from orchestrator.rendezvous import Endpoint
from orchestrator.run_directory import RunDirectory

FORWARDED = {"/v1/chat/completions": "POST", "/v1/completions": "POST", "/health": "GET", "/metrics": "GET"}
"""What may be asked of a replica; ``/v1/models`` is answered here. vLLM serves much that is open to all."""
LARGEST_BODY = 64 << 20
LEASE_S = 30.0
RENEW_EVERY_S = 5.0
BEAT_EVERY_S = 2.0
QUEUE_LIMIT = 4096
TRIES = 5
"""A request that made servers fail five times is more likely the cause than the victim."""
PAUSE_S = 0.25
"""Before a request that was answered 5xx is sent again; doubled each time. A dying server is dead by then."""


class Gateway:
    """Routes requests to the pools of all services, and publishes their endpoints."""

    def __init__(
        self, run: RunDirectory, the_plan: Plan, generation: int, address: str, queue_limit: int = QUEUE_LIMIT
    ) -> None:
        self._run = run
        self._generation = generation
        self._address = address
        self._queue_limit = queue_limit
        self._nonce = secrets.token_hex(8)
        services = [role for role in the_plan.roles if role.kind == "service"]
        self._roles: dict[str, Role] = {role.name: role for role in services}
        self._keys = {role.name: rendezvous.api_key(run, role.name) for role in services}
        self._accepted = {name: f"Bearer {rendezvous.read_key(path)}".encode() for name, path in self._keys.items()}
        self._pools = {
            role.name: Pool(run, role.name, role.replicas, generation, health=health_path(role)) for role in services
        }
        self._session: aiohttp.ClientSession | None = None
        self._published: set[str] = set()

    def application(self) -> web.Application:
        """Return the HTTP side; its background tasks run as long as it does."""
        app = web.Application(client_max_size=LARGEST_BODY)
        app.router.add_route("*", "/{role}{path:/.*}", self.answer)
        app.cleanup_ctx.append(self._background)
        return app

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request: refuse it, or pass it to a replica, as often as it takes."""
        role, path = request.match_info["role"], request.match_info["path"]
        refusal = self._refusal(request, role, path)
        if refusal is not None:
            return refusal
        if path == "/v1/models":
            return web.json_response({"object": "list", "data": [{"id": role, "object": "model"}]})
        body, refusal = await self._body(request, role)
        if refusal is not None:
            return refusal
        return await self._forward(role, request.method, path, body)

    def _refusal(self, request: web.Request, role: str, path: str) -> web.Response | None:
        if role not in self._roles:
            return problem(404, f"No service {role!r} in this run. Known: {', '.join(self._roles) or 'none'}.")
        given = request.headers.get("Authorization", "").encode("utf-8", errors="replace")
        if not hmac.compare_digest(given, self._accepted[role]):
            return problem(401, f"Wrong or missing key. It is in the file that endpoints/{role}.json names.")
        method = "GET" if path == "/v1/models" else FORWARDED.get(path)
        if method is None:
            return problem(404, f"{path} is not served. Served: {', '.join([*FORWARDED, '/v1/models'])}.")
        if method != request.method:
            return problem(405, f"{path} answers {method} only, not {request.method}.")
        return None

    async def _body(self, request: web.Request, role: str) -> tuple[dict[str, Any] | None, web.Response | None]:
        if request.method == "GET":
            return None, None
        try:
            body = json.loads(await request.read())
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            return None, problem(400, f"The body is not JSON: {error}.")
        if not isinstance(body, dict):
            return None, problem(400, "The body is not a JSON object.")
        if body.get("model") != role:
            return None, problem(404, f"No model {str(body.get('model'))[:100]!r} here. Ask for {role!r}.")
        if body.get("stream"):
            return None, problem(400, "Streaming is not offered by the gateway. Leave out 'stream'.")
        return body, None

    async def _forward(self, role: str, method: str, path: str, body: dict[str, Any] | None) -> web.Response:
        # Work waits for a replica as long as a restart may take; a question how things are does not.
        pool, limit_s = self._pools[role], self._roles[role].start_timeout_s if body is not None else 0.0
        until = time.monotonic() + limit_s
        if pool.waiting >= self._queue_limit:
            return problem(503, f"{pool.waiting} requests wait already; that is the limit.", retry_after_s=5)
        answer: web.Response | None = None
        for attempt in range(TRIES):
            replica = await pool.acquire(until)
            if replica is None:
                return problem(503, f"No replica of {role} has answered for {limit_s:g} s.", retry_after_s=10)
            try:
                answer = await self._ask(replica, role, method, path, body)
            finally:
                pool.release(replica)
            if answer is not None and answer.status < 500:
                return answer
            pool.retried += 1
            if answer is not None:
                await asyncio.sleep(PAUSE_S * 2**attempt)
        return answer or problem(502, f"{TRIES} tries in a row met a replica of {role} that ended.", retry_after_s=10)

    async def _ask(
        self, replica: Replica, role: str, method: str, path: str, body: dict[str, Any] | None
    ) -> web.Response | None:
        """Return the replica's whole answer; None if it died, hung, or is not who it should be."""
        assert self._session is not None
        pool = self._pools[role]
        sending = asyncio.ensure_future(self._send(replica, role, method, path, body))
        dying = asyncio.ensure_future(replica.gone.wait())
        try:
            await asyncio.wait({sending, dying}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                return None
            answer = sending.result()
        except (aiohttp.ClientError, ConnectionError):
            pool.suspect(replica)
            return None
        finally:
            sending.cancel()
            dying.cancel()
        if body is not None and answer.status in (401, 404):
            # A server that does not know our key or its own name is another one on the same port.
            pool.suspect(replica)
            return None
        return answer

    async def _send(
        self, replica: Replica, role: str, method: str, path: str, body: dict[str, Any] | None
    ) -> web.Response:
        assert self._session is not None
        async with self._session.request(
            method,
            replica.root + (health_path(self._roles[role]) if path == "/health" else path),
            json=None if body is None else body | {"model": replica.endpoint.model},
            headers=replica.headers,
            allow_redirects=False,
        ) as response:
            content = await response.read()
            text = self._own_metrics(role) if path == "/metrics" else b""
            return web.Response(
                status=response.status,
                body=content + text,
                headers={
                    "Content-Type": response.headers.get("Content-Type", "application/octet-stream"),
                    "X-Replica": replica.endpoint.name,
                },
            )

    def _own_metrics(self, role: str) -> bytes:
        pool = self._pools[role]
        numbers = {"waiting": pool.waiting, "retried_total": pool.retried, "replicas_up": pool.up}
        return "".join(f"gateway_{name} {number}\n" for name, number in numbers.items()).encode()

    # In the background: who lives, and saying so.

    async def _background(self, _app: web.Application) -> Any:
        # A replica decides how many it serves at once; a limit of connections here would queue unseen.
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._session:
            tasks = [asyncio.create_task(pool.watch(self._session)) for pool in self._pools.values()]
            tasks.append(asyncio.create_task(self._publish_forever()))
            tasks.append(asyncio.create_task(self._beat_forever()))
            for task in tasks:
                task.add_done_callback(stop_if_failed)
            yield
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for role in self._published:
            rendezvous.withdraw(self._run, role, self._nonce)

    async def _publish_forever(self) -> None:
        """Publish a service once a replica has answered, and from then on, also while it reloads."""
        renewed: dict[str, float] = {}
        while True:
            for role, pool in self._pools.items():
                due = time.monotonic() - renewed.get(role, -RENEW_EVERY_S) >= RENEW_EVERY_S
                if (pool.up or role in self._published) and due:
                    renewed[role] = time.monotonic()
                    self._published.add(role)
                    rendezvous.publish(self._run, self._endpoint(role))
            await asyncio.sleep(0.1)

    async def _beat_forever(self) -> None:
        """Tell the supervisor where we listen and that our loop turns."""
        beat = 0
        port = int(self._address.rsplit(":", 1)[1])
        while True:
            beat += 1
            record = {"pid": os.getpid(), "port": port, "url": self._address, "beat": beat}
            write_json(state_file(self._run), record | {"generation": self._generation})
            await asyncio.sleep(BEAT_EVERY_S)

    def _endpoint(self, role: str) -> Endpoint:
        return Endpoint(
            name=role,
            url=f"{self._address}/{role}/v1",
            model=role,
            api_key_file=str(self._keys[role]),
            generation=self._generation,
            nonce=self._nonce,
            pid=os.getpid(),
            host=socket.gethostname(),
            lease_until=time.time() + LEASE_S,
        )


def health_path(role: Role) -> str:
    """Return where a service says that it lives: every OpenAI API lists models, only our servers have more."""
    return "/v1/models" if role.url else "/health"


def problem(status: int, message: str, *, retry_after_s: int | None = None) -> web.Response:
    """Return an error in the form of the OpenAI API."""
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return web.json_response({"error": {"message": message, "code": status}}, status=status, headers=headers)


def stop_if_failed(task: asyncio.Task[None]) -> None:
    """End the process if a background task has failed: a gateway without it would only look alive."""
    if not task.cancelled() and task.exception() is not None:
        task.get_loop().call_exception_handler(
            {"message": "A background task of the gateway failed.", "exception": task.exception(), "task": task}
        )
        os.kill(os.getpid(), signal.SIGABRT)


async def serve(run: RunDirectory, generation: int, listener: socket.socket, queue_limit: int = QUEUE_LIMIT) -> None:
    """Serve until SIGTERM or SIGINT."""
    host, port = listener.getsockname()[:2]
    address = f"http://{host if host != '0.0.0.0' else socket.gethostname()}:{port}"
    gateway = Gateway(run, plan.load(run.plan), generation, address, queue_limit)
    # Cancelled handlers give up their place when a client has gone away.
    runner = web.AppRunner(gateway.application(), handler_cancellation=True, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    site = web.SockSite(runner, listener, backlog=1024)
    await site.start()
    print(f"listening on {address}", file=sys.stderr, flush=True)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    await runner.cleanup()


def main(arguments: list[str] | None = None) -> None:
    """Run the gateway of one run."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.allocation.gateway")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--listen-fd", type=int, help="a listening socket inherited from the supervisor")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen without --listen-fd")
    parser.add_argument("--queue-limit", type=int, default=QUEUE_LIMIT, help="requests that may wait for one service")
    given = parser.parse_args(arguments)
    run = RunDirectory(given.run_dir.absolute())
    if given.listen_fd is not None:
        listener = socket.socket(fileno=given.listen_fd)
    else:
        listener = listening_socket(run, given.host)
    asyncio.run(serve(run, int(os.environ.get("ORCH_GENERATION", "1")), listener, given.queue_limit))


if __name__ == "__main__":
    main()
