"""From what was collected to the batch of one optimiser step: totals, advantages, rows; and the step's metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from jobs.grpo import algo
from jobs.grpo.groups import Collected, Group
from jobs.grpo.rollout import TrainingRow
from jobs.grpo.settings import Settings
from jobs.rewards.scorer import means


@dataclass(frozen=True, kw_only=True)
class Valued:
    """A group and what its responses are worth to training.

    Attributes:
        group: As collected.
        totals: What each response earned, penalties of the algorithm taken off; NaN is missing.
        advantages: Of each response.
        rejected: Too few verdicts came; the group is logged and not trained on.
    """

    group: Group
    totals: tuple[float, ...]
    advantages: tuple[float, ...]
    rejected: bool


def value(settings: Settings, collected: Collected, kl: Sequence[Sequence[float]] | None = None) -> list[Valued]:
    """Return every group with its advantages.

    Args:
        settings: Of the role.
        collected: One step's groups.
        kl: Of every response to the start model, summed over its tokens, group by group; None if the KL is
            not part of the reward.
    """
    algorithm = settings.algorithm
    totals = [_totals(settings, group, kl[index] if kl else None) for index, group in enumerate(collected.groups)]
    advantages_N = algo.advantages(
        torch.tensor([total for group in totals for total in group], dtype=torch.float64),
        [index for index, group in enumerate(totals) for _ in group],
        normalise=algorithm.normalise,
        eps=algorithm.eps,
        min_valid=algorithm.min_valid,
    ).tolist()
    size = settings.samples_per_prompt
    return [
        Valued(
            group=group,
            totals=tuple(totals[index]),
            advantages=tuple(advantages_N[index * size : (index + 1) * size]),
            rejected=sum(not math.isnan(total) for total in totals[index]) < algorithm.min_valid,
        )
        for index, group in enumerate(collected.groups)
    ]


def kl(settings: Settings, own: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the KL of every response to the start model, summed over its tokens, group by group.

    Args:
        settings: Of the role.
        own: The policy's log-probability of every token of every response.
        reference: The start model's.
    """
    summed = [
        float(algo.kl(torch.tensor(new), torch.tensor(start), settings.algorithm.kl).sum())
        for new, start in zip(own, reference, strict=True)
    ]
    size = settings.samples_per_prompt
    return [summed[first : first + size] for first in range(0, len(summed), size)]


def rows(valued: Sequence[Valued]) -> list[TrainingRow]:
    """Return the batch of one optimiser step: every response of every group that was not rejected."""
    return [row for each in valued if not each.rejected for row in _rows(each.group, each.advantages)]


def unvalued_rows(collected: Collected) -> list[TrainingRow]:
    """Return every response as a row without an advantage, for log-probabilities only."""
    return [row for group in collected.groups for row in _rows(group, [0.0] * len(group.scored))]


def metrics(
    collected: Collected, valued: Sequence[Valued], kl: Sequence[Sequence[float]] | None = None
) -> dict[str, float]:
    """Return the step's rewards, lengths and times, named as verl names them where it has a name.

    Args:
        collected: One step's groups.
        valued: The same, with advantages.
        kl: As for ``value``.
    """
    scored = [s for group in collected.groups for s in group.scored]
    lengths = [len(s.sample.tokens) for s in scored]
    earned = [s.score.total for s in scored]
    parts = means([s.score for s in scored])
    penalty = {"actor/reward_kl_penalty": math.fsum(map(math.fsum, kl)) / sum(lengths)} if kl else {}
    return {
        **_spread("critic/score", earned),
        **_spread("critic/rewards", [total for each in valued for total in each.totals]),
        **_spread("critic/advantages", [a for each in valued for a in each.advantages]),
        **{f"reward/{name}": value for name, value in parts.items() if name != "total"},
        **_spread("prompt_length", [s.sample.prompt_tokens for s in scored]),
        **_spread("response_length", lengths),
        "response_length/clip_ratio": sum(not s.sample.finished for s in scored) / len(scored),
        "judge/groups_rejected": float(sum(each.rejected for each in valued)),
        "critic/zero_spread_groups": sum(not any(each.advantages) for each in valued) / len(valued),
        "critic/refills": float(collected.refills),
        "critic/dropped_groups": float(collected.dropped),
        "judge/wait_after_gen_s": collected.wait_after_gen_s,
        "timing_s/gen": collected.generate_s,
        "timing_s/reward": collected.wait_after_gen_s,
        **penalty,
        **collected.metrics,
    }


def tokens(collected: Collected) -> int:
    """Return how many tokens prompts and responses have, prompts as often as they were answered."""
    return sum(s.sample.prompt_tokens + len(s.sample.tokens) for group in collected.groups for s in group.scored)


def _totals(settings: Settings, group: Group, kl: Sequence[float] | None) -> list[float]:
    algorithm, longest = settings.algorithm, settings.engine.max_new_tokens
    totals = group.totals()
    if algorithm.overlong_tokens is not None:
        lengths = torch.tensor([len(scored.sample.tokens) for scored in group.scored])
        penalties = algo.overlong_penalty(lengths, longest=longest, margin=algorithm.overlong_tokens).tolist()
        totals = [total + penalty for total, penalty in zip(totals, penalties, strict=True)]
    if kl is not None:
        totals = [total - algorithm.kl_coefficient * k for total, k in zip(totals, kl, strict=True)]
    return totals


def _rows(group: Group, advantages: Sequence[float]) -> list[TrainingRow]:
    return [
        TrainingRow(
            example=group.example.id,
            text=group.prompt,
            images=group.example.images,
            tokens=scored.sample.tokens,
            logprobs=scored.sample.logprobs,
            advantage=advantage,
            finished=scored.sample.finished,
            version=scored.sample.version,
        )
        for scored, advantage in zip(group.scored, advantages, strict=True)
    ]


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return {}
    mean = math.fsum(known) / len(known)
    return {f"{name}/mean": mean, f"{name}/max": float(max(known)), f"{name}/min": float(min(known))}
