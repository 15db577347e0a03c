"""Collecting one step's groups: every response goes to its rewards the moment it ends.

So the judge works while other responses are still being written, and what is left of its time
after the last token is the metric ``judge/wait_after_gen_s``.

The capacity rule: a prompt may be begun while fewer than ``(staleness + steps made + 1) * prompts_per_step``
have been. The loop keeps it by when it begins a collection; with staleness 1 that is while the step before
is still being judged and trained on.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jobs import data
from jobs.data import Example
from jobs.grpo.groups import Collected, Group, Scored
from jobs.grpo.prompts import Cursor, PromptSource, sample_seed
from jobs.grpo.rollout import Request, Sample
from jobs.grpo.settings import Settings
from jobs.rewards.scorer import Score

Report = Callable[[int, int], None]
"""Told how many responses are scored, and of how many."""
ZERO_SPREAD = 1e-6
"""As in ``algo``, which takes seconds to import."""


class Generates(Protocol):
    """The part of the workers that samples."""

    def generate(self, requests: Sequence[Request]) -> AsyncIterator[Sample]: ...


class Scores(Protocol):
    """The part of the scorer that a collector uses."""

    async def score(self, example: Example, response: str) -> Score: ...

    def metrics(self) -> dict[str, float]: ...


class Generated(asyncio.Event):
    """Whether the last token of a step is sampled, and since when."""

    at: float = math.inf

    def note(self) -> None:
        """Say that it is, now."""
        self.at = min(self.at, time.monotonic())
        self.set()


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Collects steps, one after the other or the next while the last is still being judged.

    Attributes:
        settings: Of the role.
        workers: Sample.
        scorer: Scores each response; its own deadlines bound the wait for the judge.
        examples: All there are.
        source: The order in which they are used.
    """

    settings: Settings
    workers: Generates
    scorer: Scores
    examples: Sequence[Example]
    source: PromptSource

    def begin(self, step: int, cursor: Cursor, report: Report) -> Collection:
        """Begin to collect a step, from 1, whose number fixes the seeds.

        Args:
            step: The step.
            cursor: Its first batch of prompts.
            report: Called with responses scored so far and responses in all.
        """
        generated = Generated()
        task = asyncio.create_task(self._collect(step, cursor, report, generated))
        task.add_done_callback(lambda _: generated.note())
        return Collection(step=step, cursor=self.source.deal(cursor)[1], generated=generated, task=task)

    async def _collect(self, step: int, cursor: Cursor, report: Report, generated: Generated) -> Collected:
        """Collect rounds of prompts until the step is full, or may not be refilled any more."""
        algorithm, wanted = self.settings.algorithm, self.settings.prompts_per_step
        kept: list[Group] = []
        spent: list[Group] = []
        generate_s = wait_s = 0.0
        refills = 0
        while True:
            indices, cursor = self.source.deal(cursor)
            examples = [self.examples[index] for index in indices]
            done = len(kept) * self.settings.samples_per_prompt
            groups, generating_s, waiting_s = await self._round(step, refills, examples, done, report, generated)
            generate_s, wait_s = generate_s + generating_s, wait_s + waiting_s
            for group in groups:
                (kept if not algorithm.refills or has_spread(group) else spent).append(group)
            if len(kept) >= wanted or refills == algorithm.refills:
                break
            refills += 1
        return Collected(
            # A step of groups that teach nothing is still a step: it is recorded, and makes no update.
            groups=tuple(kept[:wanted] or spent[:wanted]),
            cursor=cursor,
            generate_s=generate_s,
            wait_after_gen_s=wait_s,
            refills=refills,
            dropped=len(spent),
            metrics=self.scorer.metrics(),
        )

    async def _round(
        self,
        step: int,
        refill: int,
        examples: Sequence[Example],
        done: int,
        report: Report,
        generated: Generated,
    ) -> tuple[list[Group], float, float]:
        """Return a round's groups, and the seconds of sampling and of waiting for rewards after it."""
        requests = self._requests(step, refill, examples)
        scored: dict[tuple[int, int], Scored] = {}
        began = time.monotonic()

        async def judge(sample: Sample) -> None:
            score = await self.scorer.score(examples[sample.group], sample.text)
            scored[sample.group, sample.sample] = Scored(sample=sample, score=score)
            report(done + len(scored), done + len(requests))

        try:
            async with asyncio.TaskGroup() as tasks:
                async with asyncio.timeout(self.settings.engine.timeout_s):
                    async for sample in self.workers.generate(requests):
                        tasks.create_task(judge(sample))
                ended = time.monotonic()
                if not self.settings.algorithm.refills:
                    generated.note()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        return self._groups(examples, scored), ended - began, time.monotonic() - ended

    def _groups(self, examples: Sequence[Example], scored: dict[tuple[int, int], Scored]) -> list[Group]:
        return [
            Group(
                example=example,
                prompt=data.prompt(example, self.settings.format_prompt),
                scored=tuple(scored[index, k] for k in range(self.settings.samples_per_prompt)),
            )
            for index, example in enumerate(examples)
        ]

    def _requests(self, step: int, refill: int, examples: Sequence[Example]) -> list[Request]:
        return [
            Request(
                group=index,
                sample=sample,
                example=example.id,
                text=data.prompt(example, self.settings.format_prompt),
                images=example.images,
                # A refill may draw a prompt of this very step again, and then wants other responses.
                seed=sample_seed(self.settings.seed, step, example.id + f"/{refill}" * bool(refill), sample),
            )
            for index, example in enumerate(examples)
            for sample in range(self.settings.samples_per_prompt)
        ]


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A step that is being collected.

    Attributes:
        step: Its number.
        cursor: The next step's prompts, if this one is not refilled.
        generated: Set when the last token is sampled, or the collection has ended otherwise.
        task: Ends with what was collected.
        journalled: It was taken from the journal.
    """

    step: int
    cursor: Cursor
    generated: Generated
    task: asyncio.Future[Collected]
    journalled: bool = False

    async def tokens(self) -> None:
        """Wait for the last token.

        Raises:
            Exception: What ended the collection before.
        """
        await self.generated.wait()
        if self.task.done():
            self.task.result()

    async def result(self) -> Collected:
        """Wait for the last reward and return what was collected."""
        return await self.task

    async def abandon(self) -> None:
        """Stop sampling and asking; what was collected is lost."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def from_journal(step: int, collected: Collected) -> Collection:
    """Return a collection that was made by an earlier attempt."""
    future: asyncio.Future[Collected] = asyncio.get_running_loop().create_future()
    future.set_result(collected)
    generated = Generated()
    generated.note()
    return Collection(step=step, cursor=collected.cursor, generated=generated, task=future, journalled=True)


def has_spread(group: Group) -> bool:
    """Return whether the responses of a group earned differently, so that it teaches something."""
    known = [total for total in group.totals() if not math.isnan(total)]
    return len(known) > 1 and statistics.stdev(known) >= ZERO_SPREAD


def _first(error: BaseException) -> BaseException:
    """Return the first real error inside (nested) groups: the others followed from it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
