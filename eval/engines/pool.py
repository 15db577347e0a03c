"""Engines side by side that take questions from one queue.

Each engine is given as many questions as it has room for, and another for every answer. What an engine that died was
given goes to the others, ahead of what waits; when the last one dies the evaluation ends and can go on later.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from eval.generation import Answer, Key, Question
from orchestrator.errors import OrchestratorError, RunFailed


class EngineLost(OrchestratorError):
    """The process of an engine died. What it was given can be answered by another one."""


class Worker(Protocol):
    """An engine, wherever it runs.

    Attributes:
        name: In errors: ``the engine on train2``.
        room: Questions it may hold at a time.
        about: What the summary says of it.
    """

    name: str
    room: int
    about: Mapping[str, Any]

    def answers(self) -> AsyncIterator[Answer]:
        """Yield answers to what is fed from now on, as they end.

        Raises:
            EngineLost: The process died.
        """

    def feed(self, questions: Sequence[Question]) -> None:
        """Hand over questions."""

    async def stop(self) -> None:
        """Make the engine drop what it has, and return when ``answers`` may be called again."""

    def close(self) -> None:
        """End the process, or forget the model."""


class Pool:
    """Several engines of the same model.

    Args:
        workers: The engines.
        timeout_s: Longest time without any answer.
        lost: Told whose engine died, and how many questions went back.
    """

    def __init__(self, workers: Sequence[Worker], *, timeout_s: float, lost: Callable[[EngineLost, int], None]) -> None:
        self._workers = list(workers)
        self._timeout_s = timeout_s
        self._lost = lost
        self.room = sum(worker.room for worker in workers)
        self.about: Mapping[str, Any] = {**workers[0].about, "engines": len(workers)}

    async def answers(self, questions: Sequence[Question]) -> AsyncGenerator[Answer, None]:
        """Yield the answers in the order in which they end.

        Raises:
            EngineLost: The last engine died.
            RunFailed: No engine has answered anything for ``timeout_s``.
            InputError: A question cannot be answered.
        """
        round_ = _Round(self._workers, questions)
        try:
            while round_.left:
                round_.deal()
                answer = await self._next(round_)
                if answer is not None:
                    yield answer
        finally:
            self._workers = await round_.end()

    async def close(self) -> None:
        """End every engine."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    async def _next(self, round_: _Round) -> Answer | None:
        """Return the next answer, or None if an engine died instead."""
        try:
            async with asyncio.timeout(self._timeout_s):
                worker, event = await round_.events.get()
        except TimeoutError:
            raise RunFailed(
                f"engines: no answer for {self._timeout_s:g} s, with {round_.left} to come. If answers may take that "
                "long, raise answer_timeout_s; else their log says what they do."
            ) from None
        if isinstance(event, Answer):
            return round_.answered(worker, event)
        if not isinstance(event, EngineLost) or len(round_.running) == 1:
            raise event
        self._lost(event, round_.give_back(worker))
        return None


class _Round:
    """One call of ``answers``: who has which questions.

    Attributes:
        running: What every engine that lives was given and has not answered, in that order.
        events: Answers and errors, as they come.
        left: Answers to come.
    """

    def __init__(self, workers: Sequence[Worker], questions: Sequence[Question]) -> None:
        self.running: dict[Worker, dict[Key, Question]] = {worker: {} for worker in workers}
        self.events: asyncio.Queue[tuple[Worker, Answer | Exception]] = asyncio.Queue()
        self.left = len(questions)
        self._waiting = deque(questions)
        self._pumps = {worker: asyncio.create_task(self._pump(worker)) for worker in workers}

    def deal(self) -> None:
        """Give every engine questions for the room it has; near the end each its share."""
        share = math.ceil(self.left / len(self.running))
        for worker, given in self.running.items():
            free = min(min(worker.room, share) - len(given), len(self._waiting))
            fresh = [self._waiting.popleft() for _ in range(max(0, free))]
            if fresh:
                given.update((question.key, question) for question in fresh)
                worker.feed(fresh)

    def answered(self, worker: Worker, answer: Answer) -> Answer:
        """Note an answer and return it."""
        del self.running[worker][answer.key]
        self.left -= 1
        return answer

    def give_back(self, worker: Worker) -> int:
        """Put what a dead engine was given ahead of all others, and return how many that are."""
        given = self.running.pop(worker)
        self._waiting.extendleft(reversed(given.values()))
        return len(given)

    async def end(self) -> list[Worker]:
        """Stop the engines that live and return them."""
        for pump in self._pumps.values():
            pump.cancel()
        await asyncio.gather(*self._pumps.values(), return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self.running))
        return list(self.running)

    async def _pump(self, worker: Worker) -> None:
        try:
            async for answer in worker.answers():
                self.events.put_nowait((worker, answer))
        except Exception as error:  # noqa: BLE001 - raised again by who waits for the answers
            self.events.put_nowait((worker, error))
