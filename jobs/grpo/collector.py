"""Collecting one step's groups: every response goes to its rewards the moment it ends.

So the judge works while other responses are still being written, and what is left of its time
after the last token is the metric ``judge/wait_after_gen_s``.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jobs import data
from jobs.data import Example
from jobs.grpo.prompts import sample_seed
from jobs.grpo.rollout import Request, Sample, TrainingRow
from jobs.grpo.settings import Settings
from jobs.rewards.scorer import Score, means

Report = Callable[[int, int], None]
"""Told how many responses are scored, and of how many."""


class Generates(Protocol):
    """The part of the workers that samples."""

    def generate(self, requests: Sequence[Request]) -> AsyncIterator[Sample]: ...


class Scores(Protocol):
    """The part of the scorer that a collector uses."""

    async def score(self, example: Example, response: str) -> Score: ...


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A response and what it earned."""

    sample: Sample
    score: Score


@dataclass(frozen=True, kw_only=True)
class Group:
    """All responses to one prompt, in order of their index, with their advantages.

    Attributes:
        rejected: Too few verdicts came; the group is logged and not trained on.
    """

    example: Example
    prompt: str
    scored: tuple[Scored, ...]
    advantages: tuple[float, ...]
    rejected: bool


@dataclass(frozen=True, kw_only=True)
class Collected:
    """One step's groups and how long it took to get them, in seconds."""

    groups: tuple[Group, ...]
    generate_s: float
    wait_after_gen_s: float


async def collect(
    settings: Settings,
    workers: Generates,
    scorer: Scores,
    step: int,
    examples: Sequence[Example],
    report: Report,
) -> Collected:
    """Return the groups of one step.

    Args:
        settings: Sampling and advantage settings.
        workers: Sample.
        scorer: Scores each response; its own deadlines bound the wait for the judge.
        step: The step being made, from 1; fixes the seeds.
        examples: The step's prompts.
        report: Called with responses scored so far and responses in all.
    """
    requests = _requests(settings, step, examples)
    began = time.monotonic()
    scored: dict[tuple[int, int], Scored] = {}

    async def judge(sample: Sample) -> None:
        score = await scorer.score(examples[sample.group], sample.text)
        scored[sample.group, sample.sample] = Scored(sample=sample, score=score)
        report(len(scored), len(requests))

    try:
        async with asyncio.TaskGroup() as tasks:
            async with asyncio.timeout(settings.engine.timeout_s):
                async for sample in workers.generate(requests):
                    tasks.create_task(judge(sample))
            generated = time.monotonic()
    except BaseExceptionGroup as group:
        raise _first(group) from None
    ended = time.monotonic()
    rows = [[scored[index, k] for k in range(settings.samples_per_prompt)] for index in range(len(examples))]
    groups = _groups(settings, examples, rows)
    return Collected(groups=groups, generate_s=generated - began, wait_after_gen_s=ended - generated)


def training_rows(groups: Sequence[Group]) -> list[TrainingRow]:
    """Return the batch of one optimiser step: every response of every group that was not rejected."""
    return [
        TrainingRow(
            example=group.example.id,
            text=group.prompt,
            images=group.example.images,
            tokens=scored.sample.tokens,
            logprobs=scored.sample.logprobs,
            advantage=advantage,
        )
        for group in groups
        if not group.rejected
        for scored, advantage in zip(group.scored, group.advantages, strict=True)
    ]


def metrics(collected: Collected) -> dict[str, float]:
    """Return the step's rewards, lengths and times, named as verl names them where it has a name."""
    scored = [s for group in collected.groups for s in group.scored]
    totals = [s.score.total for s in scored if not math.isnan(s.score.total)]
    lengths = [len(s.sample.tokens) for s in scored]
    advantages = [a for group in collected.groups for a in group.advantages]
    parts = means([s.score for s in scored])
    return {
        **_spread("critic/score", totals),
        **_spread("critic/rewards", totals),
        **_spread("critic/advantages", advantages),
        **{f"reward/{name}": value for name, value in parts.items() if name != "total"},
        **_spread("response_length", lengths),
        "response_length/clip_ratio": sum(not s.sample.finished for s in scored) / len(scored),
        "judge/groups_rejected": float(sum(group.rejected for group in collected.groups)),
        "critic/zero_spread_groups": sum(not any(group.advantages) for group in collected.groups)
        / len(collected.groups),
        "judge/wait_after_gen_s": collected.wait_after_gen_s,
        "timing_s/gen": collected.generate_s,
        "timing_s/reward": collected.wait_after_gen_s,
    }


def _first(error: BaseException) -> BaseException:
    """Return the first real error inside (nested) groups: the others followed from it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _requests(settings: Settings, step: int, examples: Sequence[Example]) -> list[Request]:
    return [
        Request(
            group=index,
            sample=sample,
            example=example.id,
            text=data.prompt(example, settings.format_prompt),
            images=example.images,
            seed=sample_seed(settings.seed, step, example.id, sample),
        )
        for index, example in enumerate(examples)
        for sample in range(settings.samples_per_prompt)
    ]


def _groups(settings: Settings, examples: Sequence[Example], rows: list[list[Scored]]) -> tuple[Group, ...]:
    import torch  # seconds, which pass while Ray starts

    from jobs.grpo import algo

    algorithm, size = settings.algorithm, settings.samples_per_prompt
    totals_PG = torch.tensor([[s.score.total for s in row] for row in rows], dtype=torch.float64)
    advantages_PG = algo.advantages(
        totals_PG.flatten(),
        [index for index in range(len(rows)) for _ in range(size)],
        normalise=algorithm.normalise,
        eps=algorithm.eps,
        min_valid=algorithm.min_valid,
    ).view(len(rows), size)
    valid_P = (~totals_PG.isnan()).sum(-1)
    return tuple(
        Group(
            example=example,
            prompt=data.prompt(example, settings.format_prompt),
            scored=tuple(row),
            advantages=tuple(advantages_PG[index].tolist()),
            rejected=int(valid_P[index]) < algorithm.min_valid,
        )
        for index, (example, row) in enumerate(zip(examples, rows, strict=True))
    )


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    mean = math.fsum(values) / len(values)
    return {f"{name}/mean": mean, f"{name}/max": float(max(values)), f"{name}/min": float(min(values))}
