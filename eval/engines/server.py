"""A server that speaks the OpenAI API: a role of the run, through its gateway, or any address.

A server that is away, restarts or asks to wait is waited for; a request that fails is sent again. What a server will
never answer is ``Refused``.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from eval.settings import Endpoint
from jobs.rewards.chat import GATEWAY, MISPLACED, pause_s
from orchestrator import rendezvous
from orchestrator.errors import InputError, NotFound, RunFailed
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory

BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 10.0
LONGEST_PAUSE_S = 60.0
CONNECT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server is, what to ask for, and with which key; the key is never printed."""

    url: str
    model: str
    key: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


class Refused(Exception):
    """The server will not answer this request, however often it is asked."""


class _Away(Exception):
    """No server, or one that asks to come back later: says nothing about the request."""

    def __init__(self, why: str, pause_s: float | None = None) -> None:
        super().__init__(why, pause_s)
        self.pause_s = pause_s

    def __str__(self) -> str:
        return str(self.args[0])


class _Misplaced(_Away):
    """Not this server's path, model or key. Of a role: something else lives at the address by now, or nothing yet."""


class _Failed(Exception):
    """The server failed on this request, or broke off."""


class Server:
    """A server and the model that is asked for.

    Args:
        place: The setting that names it, for errors: ``models.before``.
        endpoint: What the setting says.
        find: Returns the address as it is now; None while the role publishes none.
        progress: Where to say that the server is waited for; None says nothing.

    Attributes:
        about: The address, the model's name and, where the server tells, its weights.
    """

    def __init__(
        self, place: str, endpoint: Endpoint, find: Callable[[], Address | None], progress: Progress | None = None
    ) -> None:
        self.about: Mapping[str, Any] = {}
        self._place = place
        self._endpoint = endpoint
        self._find = find
        self._progress = progress
        self._address: Address | None = None
        self._heard_at = time.monotonic()
        # How many ask at a time is the limit, not the pool.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=endpoint.timeout_s, sock_connect=CONNECT_S),
        )

    @classmethod
    async def open(
        cls, place: str, endpoint: Endpoint, run: RunDirectory, generation: int, progress: Progress | None = None
    ) -> Server:
        """Return the server once it has said what it serves. One that is starting is waited for.

        Raises:
            NotFound: Something else lives at the address, or the key is not the server's.
            InputError: It serves several models and none was named; it does not serve the one that was.
            RunFailed: It has not come within ``outage_s``.
        """
        server = cls(place, endpoint, _finder(endpoint, run, generation), progress)
        try:
            await server._learn()
        except BaseException:
            await server.close()
            raise
        return server

    async def complete(self, what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the first choice of a chat completion, with the reply's ``usage`` in it.

        Args:
            what: Is asked, for errors: ``problem 'p3'``.
            body: Of the request, without the model.

        Raises:
            Refused: The server will not answer this.
            NotFound: There is no such model or path, or the key is wrong.
            RunFailed: The server is away longer than ``outage_s``, or has failed ``attempts`` times on this.
        """
        failures = detours = 0
        while True:
            try:
                address = self._where()
                reply = await self._exchange("POST", address, "/chat/completions", {"model": address.model, **body})
                choice = _choice(reply)
            except _Away as error:
                detours += 1
                await self._detour(error, detours)
            except _Failed as error:
                failures += 1
                if failures >= self._endpoint.attempts:
                    raise RunFailed(
                        f"{self._place}: the server failed {failures} times on {what}: {error}. Its log says why; "
                        "started again, this evaluation goes on where it is."
                    ) from None
                await asyncio.sleep(_backoff_s(failures))
            else:
                self._heard_at = time.monotonic()
                return choice

    def begin(self) -> None:
        """Count an outage from now: nothing was asked for a while."""
        self._heard_at = time.monotonic()

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _detour(self, error: _Away, detours: int) -> None:
        """Wait until it makes sense to ask again, perhaps elsewhere."""
        if self._endpoint.role is None and isinstance(error, _Misplaced):
            raise NotFound(
                f"{self._place}: {self._endpoint.url}: {error}. Correct the url, which ends where /chat/completions "
                "begins, the model's name, or the key."
            ) from None
        if self._endpoint.role is not None:
            self._address = None
        away_s = time.monotonic() - self._heard_at
        if away_s > self._endpoint.outage_s:
            raise RunFailed(
                f"{self._place}: the server has not answered for {away_s:.0f} s: {error}. Start it again and then this "
                "evaluation, which goes on where it is; outage_s is the limit."
            ) from None
        if self._progress is not None:
            self._progress.waiting(f"{self._place}: {error}", waited_s=away_s, until_s=self._endpoint.outage_s)
        await asyncio.sleep(_backoff_s(detours) if error.pause_s is None else min(error.pause_s, LONGEST_PAUSE_S))

    def _where(self) -> Address:
        if self._address is None:
            self._address = self._find()
        if self._address is None:
            raise _Away(f"the role {self._endpoint.role!r} has published no address")
        return self._address

    async def _exchange(self, method: str, address: Address, path: str, body: Any = None) -> dict[str, Any]:
        try:
            # A redirect would carry the key to somewhere that nobody named.
            async with self._session.request(
                method, f"{address.url}{path}", json=body, headers=address.headers, allow_redirects=False
            ) as response:
                raw = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _Away(f"{type(error).__name__}: {error}") from None
        except TimeoutError:
            raise _Failed(f"no answer in {self._endpoint.timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Failed(f"{type(error).__name__}: {error}") from None
        said = raw.decode(errors="replace")
        if response.status != 200:
            shown = said.replace(address.key, "***") if address.key else said
            raise _refusal(response.status, response.headers.get("Retry-After"), shown)
        try:
            value = json.loads(said)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise _Failed(f"not JSON of the OpenAI API: {_beginning(said)}")
        return value

    async def _learn(self) -> None:
        detours = 0
        while True:
            try:
                address = self._where()
                return self._settle(address, await self._listed(address))
            except _Away as error:
                detours += 1
                await self._detour(error, detours)

    async def _listed(self, address: Address) -> list[dict[str, Any]]:
        """Return the models that a server lists. Not every server does; a name that was given is believed then."""
        try:
            known = await self._exchange("GET", address, "/models")
        except (_Failed, Refused, _Misplaced) as error:
            if not address.model:
                raise NotFound(
                    f"{self._place}: {address.url}/models does not say what is served: {error}. Name the model, and "
                    "check that the url ends where /chat/completions begins."
                ) from None
            return []
        listed = known.get("data")
        return [one for one in listed if isinstance(one, dict) and "id" in one] if isinstance(listed, list) else []

    def _settle(self, address: Address, listed: list[dict[str, Any]]) -> None:
        names = [str(one["id"]) for one in listed]
        name = address.model or (names[0] if len(names) == 1 else "")
        if not name or (names and name not in names):
            raise InputError(
                f"{self._place}: {address.url} serves {', '.join(sorted(names)) or 'nothing'}"
                + (f", not {name}. Name another model." if name else ". Name one of them: model.")
            )
        if self._endpoint.role is None:
            self._address = Address(url=address.url, model=name, key=address.key)
        root = next((one.get("root") for one in listed if one["id"] == name), None)
        self.about = {"url": address.url, "served_model": name, "served_weights": root}


def _finder(endpoint: Endpoint, run: RunDirectory, generation: int) -> Callable[[], Address | None]:
    if endpoint.role is None:
        assert endpoint.url is not None
        key = rendezvous.read_key(endpoint.api_key_file) if endpoint.api_key_file else ""
        fixed = Address(url=endpoint.url.rstrip("/"), model=endpoint.model or "", key=key)
        return lambda: fixed
    role = endpoint.role

    def find() -> Address | None:
        known = rendezvous.lookup(run, role, generation=generation)
        if known is None:
            return None
        return Address(url=known.url, model=known.model, key=rendezvous.read_key(known.api_key_file))

    return find


def _refusal(status: int, retry_after: str | None, said: str) -> Exception:
    why = f"status {status}: {_beginning(said)}"
    if status == 429:
        return _Away(why, pause_s(retry_after))
    if status in MISPLACED:
        return _Misplaced(why)
    if status in GATEWAY:
        return _Away(why)
    return _Failed(why) if status == 408 or status >= 500 else Refused(why)


def _choice(reply: Mapping[str, Any]) -> dict[str, Any]:
    try:
        choice = reply["choices"][0]
        said = choice["message"]["content"]
    except (LookupError, TypeError):
        raise _Failed(f"not a chat completion: {_beginning(json.dumps(reply))}") from None
    if not isinstance(said, str | None):
        raise _Failed(f"not a chat completion: {_beginning(json.dumps(reply))}")
    return {**choice, "usage": reply.get("usage") or {}}


def _beginning(said: str) -> str:
    return " ".join(said[:300].split()) or "(empty)"


def _backoff_s(tries: int) -> float:
    return min(LONGEST_BACKOFF_S, BACKOFF_S * 2.0 ** min(tries, 10)) * random.uniform(0.5, 1.0)
