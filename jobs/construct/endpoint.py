"""One endpoint of the construction: from a request to its answer on disk, paid for once.

A request waits for a place (``jobs.rewards.admission``), for a server that is up (``jobs.rewards.breaker``) and for
tokens (``jobs.construct.budget``). It is asked again only if it had no answer. Nothing is sent twice to be faster,
and deadlines are long, because a server may ask to be paid for what it was told to drop.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp

from jobs.construct import completion
from jobs.construct.budget import Budget
from jobs.construct.completion import Broken, Misplaced
from jobs.construct.log import Log
from jobs.construct.request import Request, Stage
from jobs.construct.settings import PLACES, Endpoint, key_problem
from jobs.rewards import chat
from jobs.rewards.admission import Admission
from jobs.rewards.breaker import Breaker
from orchestrator import rendezvous
from orchestrator.errors import InputError
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory

T = TypeVar("T")
BACKOFF_S = 0.25
PROBE_S = 20.0


class Stopped(Exception):
    """The job is to end: nothing new is sent."""


class Unanswered(Exception):
    """A request had no answer in all its attempts."""


class _Unpaid(Exception):
    """The request was not taken.

    Attributes:
        cause: Why.
    """

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass
class Stop:
    """The wish to send nothing more."""

    event: asyncio.Event

    @property
    def asked(self) -> bool:
        return self.event.is_set()

    async def unless(self, work: Awaitable[T]) -> T:
        """Return the result of ``work``; give it up when nothing more is to be sent.

        Raises:
            Stopped: Nothing more is to be sent.
        """
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self.event.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if self.asked:
                raise Stopped
            return task.result()
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            Stopped: Nothing more is to be sent.
        """
        await self.unless(asyncio.sleep(seconds))


@dataclass(frozen=True, kw_only=True)
class Place:
    """The run in whose name is asked.

    Attributes:
        run: Whose endpoints to look up.
        generation: The attempt; an endpoint of another one is not trusted.
        progress: Where to say that a server is waited for.
    """

    run: RunDirectory
    generation: int
    progress: Progress


class Client:
    """Asks one endpoint. Belongs to the event loop in which it was made.

    Args:
        stage: What is asked for.
        settings: Where and how.
        log: Where requests and answers are kept.
        place: The run.
        stop: Ends everything that has not left yet.

    Attributes:
        budget: Its tokens.
        running: Requests under way.
    """

    def __init__(self, stage: Stage, settings: Endpoint, log: Log, place: Place, stop: Stop) -> None:
        self.budget = Budget(settings.budget_tokens, log.spent(stage) + log.lost(stage))
        self.running = 0
        self._stage = stage
        self._settings = settings
        self._log = log
        self._place = place
        self._stop = stop
        self._admission = Admission(most=settings.max_in_flight)
        self._breaker = Breaker(
            who=settings.service or settings.url or "",
            probe=self._probe,
            budget_s=settings.outage_budget_s,
            progress=place.progress,
        )
        self._address: chat.Address | None = None
        self._has_answered = False
        # The way to a service of the run leads through no proxy; that to the outside often does.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), trust_env=settings.url is not None
        )

    async def ask(self, request: Request) -> None:
        """Have a request answered; its answer, or that it was refused, is in the log afterwards.

        Raises:
            Stopped: Nothing more is to be sent.
            Spent: The budget is used up.
            Unanswered: All attempts failed.
            JudgeOutage: The server has not answered for longer than the outage budget.
            InputError: The server does not know our key or model.
        """
        attempts, busy_s, why = 0, 0.0, ""
        while attempts < self._settings.attempts:
            try:
                await self._once(request)
                return
            except chat.Busy as error:
                self._admission.full()
                pause_s = min(max(error.retry_after_s, BACKOFF_S), self._settings.pause_max_s)
                why, busy_s = str(error), busy_s + pause_s
                if busy_s > self._settings.outage_budget_s:
                    break
                await self._stop.pause(pause_s * random.uniform(1.0, 1.5))
            except chat.Unreachable as error:
                why = str(error)
                self._admission.full()
                if not await self._stop.unless(self._breaker.is_down(why)):
                    attempts += 1
                    await self._back_off(attempts)
            except chat.Failed as error:
                why = str(error)
                attempts += 1
                if isinstance(error, Broken):
                    self._admission.full()
                await self._back_off(attempts)
        raise Unanswered(why)

    @property
    def width(self) -> int:
        """The most requests at a time."""
        return self._settings.max_in_flight

    def says(self) -> str:
        """Return in a few words what it is at."""
        budget = "" if self.budget.most is None else f" of {_thousands(self.budget.most)}"
        return f"{self.running} in flight, {_thousands(self.budget.spent)}{budget} tokens"

    async def close(self) -> None:
        """Close connections."""
        await self._breaker.close()
        await self._session.close()

    async def _back_off(self, attempts: int) -> None:
        if attempts < self._settings.attempts:
            pause_s = min(self._settings.pause_max_s, BACKOFF_S * 2.0 ** min(attempts, 12))
            await self._stop.pause(pause_s * random.uniform(0.5, 1.0))

    async def _once(self, request: Request) -> None:
        async with self._admission:
            await self._stop.unless(self._breaker.passed())
            address = self._find()
            reserved = self.budget.cost(request)
            await self.budget.reserve(reserved)
            cost, prompt = reserved, 0
            try:
                if self._stop.asked:
                    cost = 0
                    raise Stopped
                cost, prompt = await self._paid(request, address, reserved)
            except _Unpaid as error:
                cost = 0
                raise error.cause from None
            finally:
                await self.budget.settle(reserved, cost, prompt=prompt)

    async def _paid(self, request: Request, address: chat.Address, reserved: int) -> tuple[int, int]:
        """Send a request and keep what comes back; return its tokens, all and of the prompt.

        Nothing is waited for between the reply and its line in the log. Should this be cancelled before, the log has
        a request that may have been paid for.

        Raises:
            _Unpaid: It was not taken.
            Failed: It was taken and had no answer.
        """
        self._log.send(request, reserved)
        self.running += 1
        try:
            reply = await completion.ask(self._session, address, request, self._settings.timeout_s)
        except Broken:
            self._log.fail(request, "no whole answer", reserved)
            raise
        except (chat.Unreachable, chat.Busy, chat.Failed, Misplaced, InputError) as error:
            cause = self._misplaced(error) if isinstance(error, Misplaced) else error
            if isinstance(cause, chat.Refused):
                await self._log.refuse(request, str(cause))
                return 0, 0
            self._log.fail(request, str(cause), 0)
            raise _Unpaid(cause) from None
        finally:
            self.running -= 1
        await self._log.keep(request, reply)
        self._has_answered = True
        self._breaker.answered()
        self._admission.answered()
        return reply.tokens_in + reply.tokens_out, reply.tokens_in

    def _misplaced(self, error: Misplaced) -> Exception:
        """Return what a refused key or model means: a service was restarted; elsewhere, our settings are wrong."""
        if self._settings.service is not None:
            self._address = None
            return chat.Unreachable(str(error))
        if self._has_answered:
            # It knew us a moment ago, so this is about the request: some servers refuse contents so.
            return chat.Refused(str(error))
        return InputError(
            f"{PLACES[self._stage]}: {self._settings.url} refuses us: {error}. Correct model or api_key_file."
        )

    async def _probe(self) -> str:
        """Return why the server is down, or nothing. Asks for its models, which costs no tokens."""
        try:
            address = self._find(anew=True)
            async with self._session.get(
                f"{address.url}/models",
                headers=completion.headers(address),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=PROBE_S, sock_connect=completion.CONNECT_S),
            ) as response:
                return f"status {response.status}" if response.status in chat.GATEWAY else ""
        except chat.Unreachable as error:
            return str(error)
        except (aiohttp.ClientError, OSError) as error:
            return f"{type(error).__name__}: {error}"

    def _find(self, *, anew: bool = False) -> chat.Address:
        if self._address is None or anew:
            self._address = self._published() if self._settings.service else self._elsewhere()
        return self._address

    def _published(self) -> chat.Address:
        role = self._settings.service or ""
        endpoint = rendezvous.lookup(self._place.run, role, generation=self._place.generation)
        if endpoint is None:
            raise chat.Unreachable(f"no endpoint of {role!r} is published")
        key = rendezvous.read_key(endpoint.api_key_file) if endpoint.api_key_file else ""
        return chat.Address(url=endpoint.url, model=endpoint.model, key=key)

    def _elsewhere(self) -> chat.Address:
        file = self._settings.api_key_file
        return chat.Address(
            url=self._settings.url or "", model=self._settings.model or "", key=read_key(file) if file else ""
        )


def read_key(file: str) -> str:
    """Return the key in a file that only its owner can read.

    Raises:
        InputError: Others can read it, or nobody can.
    """
    problem = key_problem(file)
    if problem is not None:
        raise InputError(str(problem))
    return rendezvous.read_key(Path(file).expanduser())


def _thousands(tokens: int) -> str:
    return str(tokens) if tokens < 10_000 else f"{tokens / 1000:.0f}k"
