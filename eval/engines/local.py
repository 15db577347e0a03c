"""An engine in this process, in a thread of its own."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from eval.engines import build
from eval.generation import Answer, Engine, Inbox, Question
from eval.settings import Settings

STOP_S = 60.0
"""Longest wait for an engine to drop what it has: it looks between two tokens."""


class LocalWorker:
    """The one engine of a role that needs no more."""

    name = "the engine"

    def __init__(self, engine: Engine) -> None:
        self._engine: Engine | None = engine
        self._inbox = Inbox()
        self._running: asyncio.Future[None] | None = None
        self.room = engine.room
        self.about: Mapping[str, Any] = engine.about

    @classmethod
    async def start(cls, settings: Settings, model: str) -> LocalWorker:
        """Return the worker when it has loaded the model."""
        return cls(await asyncio.to_thread(build, settings, model))

    async def answers(self) -> AsyncIterator[Answer]:
        """Yield answers to what is fed from now on, as they end."""
        assert self._engine is not None
        loop = asyncio.get_running_loop()
        inbox = self._inbox
        ended: asyncio.Queue[Answer | Exception | None] = asyncio.Queue()
        self._running = over = loop.create_future()

        def emit(item: Answer | Exception | None) -> None:
            loop.call_soon_threadsafe(ended.put_nowait, item)

        def run(engine: Engine) -> None:
            try:
                engine.answer(inbox, emit)
                emit(None)
            except Exception as error:  # noqa: BLE001 - raised again by who reads the answers
                emit(error)
            finally:
                loop.call_soon_threadsafe(over.set_result, None)

        threading.Thread(target=run, args=(self._engine,), name="engine", daemon=True).start()
        while (item := await ended.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def feed(self, questions: Sequence[Question]) -> None:
        """Hand over questions."""
        self._inbox.put(questions)

    async def stop(self) -> None:
        """Make the engine drop what it has, and wait until it has."""
        self._inbox.stop()
        if self._running is not None:
            await asyncio.wait([self._running], timeout=STOP_S)
        self._inbox, self._running = Inbox(), None

    def close(self) -> None:
        """Forget the model: two need not fit into memory at once."""
        self._engine = None
        gc.collect()
