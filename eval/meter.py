"""What is measured of one task's answers: by the kind of each problem, and by the rewards of the role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from eval.engines.endpoint import ServerChat
from eval.engines.server import Server
from eval.extraction import LanguageReader
from eval.job import Job
from eval.record import Row
from eval.samples import known
from eval.settings import Reader, Settings
from eval.tasks import AnyKind, Options
from jobs.data import Example
from jobs.entry import Context
from jobs.rewards.scorer import Score, Scorer
from jobs.rewards.settings import Accuracy, Rewards
from orchestrator import rendezvous


class Meter:
    """Measures answers, from ``async with`` to its end.

    Attributes:
        about: Models that take part: ``judge``, the name it is served by, and ``reader``; None without one.
    """

    def __init__(self, context: Context, settings: Settings, job: Job) -> None:
        self.about: Mapping[str, Any] = {}
        self._context = context
        self._settings = settings
        self._task = job.task
        kinds = dict.fromkeys(example.kind for example in job.examples)
        self._rewards = {kind: settings.metrics(settings.tasks[job.task], kind) for kind in kinds}
        self._stack = AsyncExitStack()
        self._scorers: dict[str, Scorer] = {}

    async def __aenter__(self) -> Meter:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def measure(self, example: Example, response: str) -> dict[str, Any]:
        """Return what a row says of an answer: ``parts``, ``correct``, ``extracted``, ``prediction``, ``judge``.

        Raises:
            JudgeOutage: The judge has not answered for longer than its budget.
        """
        score = await self._scorers[example.kind].score(example, response)
        measured = await self._measurement.measure(example, response)
        parts = {name: value for name, value in score.parts.items() if name not in score.left_out}
        return {
            # Where both know a part it is the same one.
            "parts": {name: known(value) for name, value in {**measured.parts, **parts}.items()},
            "correct": measured.correct,
            "extracted": measured.extracted,
            "prediction": dict(measured.prediction),
            "judge": _judge(score),
        }

    def aggregate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return what only all answers together say."""
        return self._measurement.aggregate(rows)

    async def _open(self) -> None:
        reader = self._settings.measure_of(self._task).reader
        self._measurement = AnyKind(self._options(None if reader is None else await self._reader(reader)))
        self._stack.push_async_callback(self._measurement.close)
        opened: list[tuple[Rewards, Scorer]] = []
        for kind, rewards in self._rewards.items():
            # Kinds with the same rewards share a scorer, and so its judge's verdicts.
            scorer = next((scorer for known, scorer in opened if known == rewards), None)
            if scorer is None:
                # Accuracy is the measurement's: nothing is compared twice.
                rest = rewards.model_copy(update={"accuracy": None})
                scorer = await self._stack.enter_async_context(Scorer.of_role(self._context, rest))
                opened.append((rewards, scorer))
            self._scorers[kind] = scorer
        self.about = {"judge": self._judge_model(), "reader": reader and (reader.role or reader.model or reader.url)}

    def _options(self, reader: LanguageReader | None) -> Options:
        measure = self._settings.measure_of(self._task)
        rewards = self._settings.metrics(self._settings.tasks[self._task])
        accuracy = rewards.accuracy or Accuracy(weight=1.0)
        return Options(
            faithful=measure.faithful or rewards.faithful,
            coordinates=measure.coordinates,
            checker_processes=accuracy.processes,
            checker_timeout_s=accuracy.timeout_s,
            reader=reader,
        )

    async def _reader(self, reader: Reader) -> LanguageReader:
        context = self._context
        server = await Server.open("measure.reader", reader, context.run, context.generation, context.progress)
        chat = ServerChat(server, reader, max_tokens=reader.max_tokens)
        return await self._stack.enter_async_context(LanguageReader(chat))

    def _judge_model(self) -> str | None:
        judges = (rewards.visual_perception for rewards in self._rewards.values())
        part = next((judge for judge in judges if judge is not None), None)
        if part is None:
            return None
        endpoint = rendezvous.lookup(self._context.run, part.judge, generation=self._context.generation)
        return endpoint.model if endpoint else None


def _judge(score: Score) -> dict[str, Any] | None:
    if score.judge is None:
        return None
    return {name: getattr(score.judge, name) for name in ("reply", "latency_s", "cached", "attempts", "missing")}
