"""One model answering one task: every answer is measured while others are generated, and on disk a moment later."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol, TypeVar

from eval.engines.answering import Answering
from eval.generation import Answer, Question
from eval.job import Job
from eval.timeline import seconds
from jobs.data import Example
from jobs.entry import Context, Drain
from orchestrator.files import private_folder

MAGIC = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpg"))
WRITE_EVERY_S = 0.25
POLL_S = 0.1
UNMEASURED = 64
"""At least so many answers may wait to be measured before no more are generated."""
T = TypeVar("T")


class Measuring(Protocol):
    """Measures answers; ``Meter`` is one."""

    async def measure(self, example: Example, response: str) -> dict[str, Any]:
        """Return the part of a row that says what an answer is worth."""


class Evaluation:
    """One model answering one task, until it is done or a drain is asked for."""

    def __init__(self, context: Context, drain: Drain, meter: Measuring, answering: Answering, job: Job) -> None:
        self._context = context
        self._drain = drain
        self._meter = meter
        self._answering = answering
        self._job = job
        self._asked = {question.key: question for question in job.questions}
        self._fresh: list[dict[str, Any]] = []
        self._already = len(job.questions) - len(job.left)
        self._began = time.monotonic()

    async def run(self) -> None:
        """Answer and measure what is left. Whatever ends it, what was measured is kept."""
        left = self._job.left
        measuring: set[asyncio.Task[None]] = set()
        writing = asyncio.create_task(self._write_often())
        self._say()
        try:
            async with aclosing(until(lambda: self._drain.requested, self._answering.answers(left))) as answers:
                async for answer in answers:
                    measuring.add(asyncio.create_task(self._measure(answer)))
                    await self._settle(measuring, most=max(UNMEASURED, self._answering.room))
            await self._settle(measuring, most=0)
            # Asked to stop: measured is what was answered, and nothing is begun.
        finally:
            for task in (writing, *measuring):
                task.cancel()
            await asyncio.gather(writing, *measuring, return_exceptions=True)
            self._write()
        self._say()

    async def _settle(self, measuring: set[asyncio.Task[None]], *, most: int) -> None:
        """Wait until at most so many answers are being measured.

        Raises:
            Exception: What measuring one of them raised.
        """
        while True:
            for task in [task for task in measuring if task.done()]:
                measuring.discard(task)
                task.result()
            if len(measuring) <= most:
                return
            await asyncio.wait(measuring, return_when=asyncio.FIRST_COMPLETED)

    async def _measure(self, answer: Answer) -> None:
        question, example = self._asked[answer.key], self._job.example_of[answer.key]
        measured = await self._meter.measure(example, answer.text)
        self._fresh.append(self._row(question, example, answer, measured))

    async def _write_often(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            self._write()
            self._say()

    def _write(self) -> None:
        # Emptied first: should writing fail, the error says so and the rows are answered again.
        rows, self._fresh = self._fresh, []
        if rows:
            self._job.samples.append(rows)

    def _row(self, question: Question, example: Example, answer: Answer, measured: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": example.id,
            "sample": question.key[1],
            "seed": question.run_seed,
            "kind": example.kind,
            "images": [_store(self._context.run.path, image) for image in example.images],
            "prompt": question.text,
            "response": answer.text,
            "tokens": answer.tokens,
            "finish": answer.finish,
            "answer": example.answer,
            "target": None if example.target is None else example.target.to_json(),
            "meta": dict(example.meta),
            "visual_key_info": example.visual_key_info,
            **measured,
            "batch_s": answer.seconds,
        }

    def _say(self) -> None:
        done, total = len(self._job.questions) - len(self._job.left), len(self._job.questions)
        answered = done - self._already
        left_s = (time.monotonic() - self._began) / answered * (total - done) if answered else None
        right = [row["correct"] for row in self._job.samples.done.values() if row["correct"] is not None]
        words = [f"accuracy {sum(right) / len(right):.3f}"] if right else []
        words += [f"{seconds(left_s)} left"] if left_s else []
        unit = "problems" if len(self._job.examples) == total else "answers"
        phase = f"evaluating {self._job.label} on {self._job.task}"
        self._context.progress.update(phase, done, total, unit=unit, message=", ".join(words))


async def until(wanted: Callable[[], bool], items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Yield items until there are no more or a stop is wanted; the source is closed either way."""
    async with aclosing(items):
        while not wanted():
            coming = asyncio.ensure_future(_next(items))
            try:
                while not coming.done():
                    await asyncio.wait([coming], timeout=POLL_S)
                    if wanted() and not coming.done():
                        return
                found = coming.result()
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            if not found:
                return
            yield found[0]


async def _next(items: AsyncIterator[T]) -> list[T]:
    """Return the next item in a list, or an empty list."""
    async for item in items:
        return [item]
    return []


def _store(run: Path, image: bytes) -> str:
    """Keep an image once, under a name made of what it shows, and return that name."""
    kind = next((kind for magic, kind in MAGIC if image.startswith(magic)), "img")
    name = f"images/{hashlib.sha256(image).hexdigest()[:16]}.{kind}"
    if not (run / name).exists():
        private_folder(run / "images")
        (run / name).write_bytes(image)
    return name
