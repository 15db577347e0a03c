"""Requests made of examples, and rows made of what was sampled."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.data import Example
from jobs.grpo.prompts import sample_seed
from jobs.grpo.rollout import Request, Sample, TrainingRow


def requests(examples: Sequence[Example], samples: int, *, step: int = 1) -> list[Request]:
    return [
        Request(
            group=index,
            sample=sample,
            example=example.id,
            text=example.problem,
            images=example.images,
            seed=sample_seed(1, step, example.id, sample),
        )
        for index, example in enumerate(examples)
        for sample in range(samples)
    ]


def rows(examples: Sequence[Example], samples: Sequence[Sample]) -> list[TrainingRow]:
    return [
        TrainingRow(
            example=examples[s.group].id,
            text=examples[s.group].problem,
            images=examples[s.group].images,
            tokens=s.tokens,
            logprobs=s.logprobs,
            advantage=1.0,
        )
        for s in samples
    ]


def largest_difference(some: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """Return the largest difference of two log-probabilities of the same token."""
    pairs = [pair for a, b in zip(some, others, strict=True) for pair in zip(a, b, strict=True)]
    return max(abs(a - b) for a, b in pairs)
