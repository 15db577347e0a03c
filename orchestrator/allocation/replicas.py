"""The replicas of one service: which are up, how busy they are, who is next."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field

import aiohttp

from orchestrator import rendezvous
from orchestrator.rendezvous import Endpoint
from orchestrator.run_directory import RunDirectory

LOOK_EVERY_S = 0.2
CHECK_EVERY_S = 2.0
CHECK_TIMEOUT_S = 30.0
"""A busy server answers its health check late; one that is silent for so long is taken for hung."""


@dataclass(eq=False, kw_only=True)
class Replica:
    """One start of one server.

    Attributes:
        endpoint: What it published; the nonce in there tells this start from the next.
        headers: What goes with every request to it: its key.
        open: Requests it has not answered yet.
        up: Whether its newest health check was good and no request has failed since.
        gone: Set when it no longer is the published one, or hangs: its requests are taken back.
    """

    endpoint: Endpoint
    headers: dict[str, str]
    open: int = 0
    up: bool = False
    checked_at: float = float("-inf")
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def root(self) -> str:
        """The server's URL without ``/v1``."""
        return self.endpoint.url.removesuffix("/v1")


class Pool:
    """All replicas of one service, and the requests that wait for one.

    Args:
        run: The run.
        role: The service.
        replicas: How many it has.
        generation: Only what this attempt published is used.
        health: The path that a live server answers with 200.

    Attributes:
        waiting: Requests that wait for a replica.
        retried: How often a request was sent again.
    """

    def __init__(self, run: RunDirectory, role: str, replicas: int, generation: int, health: str = "/health") -> None:
        self._run = run
        self._names = [f"{role}-{i}" for i in range(replicas)]
        self._generation = generation
        self._health = health
        self._replicas: dict[str, Replica] = {}
        self._checks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.waiting = 0
        self.retried = 0

    @property
    def up(self) -> int:
        """How many replicas answer."""
        return sum(replica.up for replica in self._replicas.values())

    async def acquire(self, until: float) -> Replica | None:
        """Return the replica with the fewest open requests, or None if none is up by then.

        Args:
            until: Monotonic time, seconds.
        """
        self.waiting += 1
        try:
            while (replica := self._least_busy()) is None:
                left_s = until - time.monotonic()
                if left_s <= 0:
                    return None
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), left_s)
                except TimeoutError:
                    return None
        finally:
            self.waiting -= 1
        replica.open += 1
        return replica

    def release(self, replica: Replica) -> None:
        """Take note that a request has ended, however it did."""
        replica.open -= 1

    def suspect(self, replica: Replica) -> None:
        """Give it no more requests until its next good health check, which is made soon."""
        replica.up = False
        replica.checked_at = time.monotonic() - CHECK_EVERY_S + LOOK_EVERY_S

    async def watch(self, session: aiohttp.ClientSession) -> None:
        """Follow the endpoint files and check the health of what they name, for ever."""
        while True:
            for name in self._names:
                self._follow(name)
            for replica in self._replicas.values():
                if time.monotonic() - replica.checked_at >= CHECK_EVERY_S:
                    replica.checked_at = time.monotonic()
                    task = asyncio.create_task(self._check(replica, session))
                    self._checks.add(task)
                    task.add_done_callback(self._checks.discard)
            await asyncio.sleep(LOOK_EVERY_S)

    def _least_busy(self) -> Replica | None:
        return min((r for r in self._replicas.values() if r.up), key=lambda r: r.open, default=None)

    def _follow(self, name: str) -> None:
        endpoint = rendezvous.lookup(self._run, name, generation=self._generation)
        known = self._replicas.get(name)
        if known is not None and (endpoint is None or endpoint.nonce != known.endpoint.nonce):
            known.gone.set()
            del self._replicas[name]
            known = None
        if known is None and endpoint is not None:
            try:
                self._replicas[name] = Replica(endpoint=endpoint, headers=authorization(endpoint))
            except OSError as error:  # Of a service elsewhere: its key is the user's file and may be gone.
                print(f"warning: {name} is not used: {error}.", file=sys.stderr, flush=True)

    async def _check(self, replica: Replica, session: aiohttp.ClientSession) -> None:
        timeout = aiohttp.ClientTimeout(total=CHECK_TIMEOUT_S)
        try:
            url = f"{replica.root}{self._health}"
            async with session.get(url, headers=replica.headers, timeout=timeout, allow_redirects=False) as response:
                good = response.status == 200
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            self._take_back(replica, hung=isinstance(error, TimeoutError))
            return
        replica.up = good
        if good:
            self._changed.set()

    def _take_back(self, replica: Replica, *, hung: bool) -> None:
        """Stop using it; if it hangs, its open requests are sent elsewhere."""
        replica.up = False
        if hung:
            replica.gone.set()
            replica.gone = asyncio.Event()


def authorization(endpoint: Endpoint) -> dict[str, str]:
    """Return the header with the endpoint's key; none for a server that asks for no key."""
    if not endpoint.api_key_file:
        return {}
    return {"Authorization": f"Bearer {rendezvous.read_key(endpoint.api_key_file)}"}
