"""Answers from a server: so many questions on their way at a time, each answer handed over when it is whole.

A server has its own tokens and templates: image tokens are not banned here, and what it makes of a seed is its affair.
``repetition_penalty`` and ``skip_special_tokens`` are vLLM's words, sent only if the settings differ from the usual.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

from eval.engines.server import Refused, Server
from eval.generation import Answer, Question
from eval.settings import Endpoint, Settings
from jobs import data
from orchestrator.errors import InputError

MAGIC = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"))
FINISHES = {"length": "length", "content_filter": "refused"}
"""What the API calls an ending that is not the model's own."""


class EndpointModel:
    """A model behind a server."""

    def __init__(self, server: Server, endpoint: Endpoint, settings: Settings) -> None:
        self.room = endpoint.concurrency
        self.about = server.about
        self._server = server
        self._endpoint = endpoint
        self._settings = settings

    async def answers(self, questions: Sequence[Question]) -> AsyncGenerator[Answer, None]:
        """Yield the answers in the order in which they end."""
        self._server.begin()
        left = iter(questions)
        # When as many wait to be measured, no more are asked for.
        ended: asyncio.Queue[Answer] = asyncio.Queue(maxsize=self.room)
        workers = [asyncio.create_task(self._work(left, ended)) for _ in range(min(self.room, len(questions)))]
        over = asyncio.gather(*workers)
        try:
            for _ in questions:
                yield await _next(ended, over)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, over, return_exceptions=True)

    async def close(self) -> None:
        """Close the connections."""
        await self._server.close()

    async def _work(self, left: Iterator[Question], ended: asyncio.Queue[Answer]) -> None:
        for question in left:
            await ended.put(await self._answer(question))

    async def _answer(self, question: Question) -> Answer:
        began = time.monotonic()
        try:
            choice = await self._server.complete(f"problem {question.key[0]!r}", self._body(question))
        except Refused as error:
            if self._endpoint.refusals == "stop":
                raise InputError(
                    f"problem {question.key[0]!r}: the server refuses it: {error}. Leave the problem out, change the "
                    "setting that is named there, or count such problems as empty answers with refusals: empty."
                ) from None
            choice = {"message": {"content": None}, "finish_reason": "content_filter", "usage": {}}
        return Answer(
            key=question.key,
            # Empty where a server was told to think apart and did nothing else.
            text=choice["message"]["content"] or "",
            tokens=int(choice["usage"].get("completion_tokens") or 0),
            finish=FINISHES.get(str(choice.get("finish_reason")), "stop"),
            seconds=round(time.monotonic() - began, 3),
        )

    def _body(self, question: Question) -> dict[str, Any]:
        settings = self._settings
        system = [{"role": "system", "content": question.system}] if question.system else []
        body: dict[str, Any] = {
            "messages": [*system, {"role": "user", "content": content(question)}],
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
        }
        if settings.temperature:
            body |= {"seed": question.seed, "top_p": settings.top_p}
        if settings.repetition_penalty != 1:
            body["repetition_penalty"] = settings.repetition_penalty
        if settings.keep_special_tokens:
            body["skip_special_tokens"] = False
        return without_nulls(body | self._endpoint.body)


class ServerChat:
    """A server as the language model that reads answers out of responses and judges them."""

    def __init__(self, server: Server, endpoint: Endpoint, *, max_tokens: int) -> None:
        self._server = server
        self._body = {"temperature": 0, "max_tokens": max_tokens, **endpoint.body}
        self._places = asyncio.Semaphore(endpoint.concurrency)

    async def complete(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        """Return the reply; None if the server refuses, or says nothing."""
        async with self._places:
            try:
                choice = await self._server.complete(
                    "a reading", without_nulls({"messages": list(messages), **self._body})
                )
            except Refused:
                return None
        said: str | None = choice["message"]["content"]
        return said

    async def close(self) -> None:
        """Close the connections."""
        await self._server.close()


def content(question: Question) -> str | list[dict[str, Any]]:
    """Return what the user says as the API has it: text, with images as data URLs where ``<image>`` stands.

    Raises:
        InputError: Images and their places differ in number.
    """
    pieces = question.text.split(data.IMAGE)
    if len(pieces) - 1 != len(question.images):
        raise InputError(
            f"problem {question.key[0]!r}: the text has {len(pieces) - 1} {data.IMAGE} for {len(question.images)} "
            "image(s). Correct the data or leave the problem out."
        )
    if not question.images:
        return question.text
    parts: list[dict[str, Any]] = []
    for place, piece in enumerate(pieces):
        parts += [{"type": "image_url", "image_url": {"url": data_url(question.images[place - 1])}}] if place else []
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts


def data_url(image: bytes) -> str:
    """Return an encoded image as an address that contains it."""
    kind = next((kind for magic, kind in MAGIC if image.startswith(magic)), "png")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def without_nulls(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's body without the keys that the settings took away."""
    return {key: value for key, value in body.items() if value is not None}


async def _next(ended: asyncio.Queue[Answer], over: asyncio.Future[Any]) -> Answer:
    """Return the next answer, or raise what ended the workers."""
    coming = asyncio.ensure_future(ended.get())
    try:
        await asyncio.wait({coming, over}, return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            # Either a worker failed, or all are done and what they answered last is in the queue.
            over.result()
        return await coming
    finally:
        coming.cancel()
