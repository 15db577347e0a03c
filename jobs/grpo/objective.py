"""The loss of one optimiser step, put together from ``algo`` as the settings say, one micro-batch at a time.

    loss = sum over all rows of all micro-batches of all ranks of
           token weight * (importance * policy loss + kl_coefficient * KL - entropy_coefficient * entropy)

The token weights hold one denominator, counted over the whole step before its first backward. So a step has the same
gradient however its rows are split. Metrics are collected as sums, which add up over micro-batches and ranks, and
become means once, in ``metrics``.

Shapes: ``N`` rows of a micro-batch, ``T`` completion tokens (right-padded).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from jobs.grpo import algo
from jobs.grpo.rollout import TrainingRow
from jobs.grpo.settings import Algorithm

IMPORTANCE_CAP: dict[algo.Importance, float] = {"token": 2.0, "sequence_mask": 3.0}

PER_TOKEN = {
    "entropy": "actor/entropy",
    "clipped": "actor/pg_clipfrac",
    "clipped_low": "actor/clip_low_frac",
    "clipped_high": "actor/clip_high_frac",
    "dual_clipped": "actor/pg_clipfrac_lower",
    "ppo_kl": "actor/ppo_kl",
    "kl_loss": "actor/kl_loss",
    "importance": "actor/tis_mean",
    "importance_capped": "actor/tis_capped_frac",
    "engine_difference": "actor/engine_logprob_difference",
    "engine_kl": "actor/engine_kl",
}
"""Sums that become a mean over tokens, and the metric's name: verl's where it has one."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What is known of the completion tokens of one micro-batch.

    Attributes:
        new_NT: Log-probabilities under the weights being trained; the only ones with a gradient.
        entropy_NT: Of the distributions the tokens were drawn from, nats; with a gradient if it is rewarded.
        old_NT: Log-probabilities by the trainer at the beginning of the step, ``new_NT.detach()`` in its first epoch.
        sampler_NT: As the engine reported them.
        reference_NT: Under the start model; None without a reference model.
        mask_NT: 1 on completion tokens that count, as ``row_mask`` returns it.
        advantages_N: Of the rows.
    """

    new_NT: Tensor
    entropy_NT: Tensor
    old_NT: Tensor
    sampler_NT: Tensor
    reference_NT: Tensor | None
    mask_NT: Tensor
    advantages_N: Tensor


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What one optimiser step averages over: all rows of all micro-batches of all ranks."""

    rows: int
    tokens: int


def counted(rows: Sequence[TrainingRow], algorithm: Algorithm) -> Whole:
    """Return the denominators of a step, from all of its rows.

    Responses that were cut off leave both counts under ``mask_overlong``. Only ``dr_grpo`` keeps counting their rows:
    its denominator is a constant by design, rows times the longest length.
    """
    kept = [row for row in rows if not _left_out(row, algorithm)]
    averaged = rows if algorithm.aggregation == "dr_grpo" else kept
    return Whole(rows=len(averaged), tokens=sum(len(row.tokens) for row in kept))


def teaching(rows: Sequence[TrainingRow], algorithm: Algorithm) -> list[TrainingRow]:
    """Return the rows that have a gradient; the others are counted and need not be computed.

    A row with the advantage 0 has none unless a KL or an entropy term acts on every token.
    """
    every = algorithm.entropy_coefficient > 0 or _kl_in_loss(algorithm)
    return [row for row in rows if not _left_out(row, algorithm) and (every or row.advantage != 0)]


def row_mask(mask_NT: Tensor, rows: Sequence[TrainingRow], algorithm: Algorithm) -> Tensor:
    """Return the completion mask, 0 throughout in rows that were cut off if those are to teach nothing.

    Args:
        mask_NT: 1 on completion tokens.
        rows: The ``N`` rows of the micro-batch.
        algorithm: Its settings.
    """
    if not algorithm.mask_overlong:
        return mask_NT
    kept_N1 = mask_NT.new_tensor([[float(not _left_out(row, algorithm))] for row in rows])
    return mask_NT * kept_N1


def loss(
    tokens: Tokens, whole: Whole, algorithm: Algorithm, *, max_new_tokens: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return this micro-batch's part of the step's loss, and its part of the sums for ``metrics``.

    Log-probabilities and entropies where the mask is 0 have no influence, infinities and NaN included.

    Args:
        tokens: Of the micro-batch.
        whole: Of the step, from ``counted``.
        algorithm: Its settings.
        max_new_tokens: The longest completion allowed, tokens; what ``dr_grpo`` divides by.

    Returns:
        A scalar to call ``backward`` on, and scalars without a gradient.
    """
    tokens = _blank_where_masked(tokens)
    weights_NT = algo.token_weights(
        tokens.mask_NT, algorithm.aggregation, max_tokens=max_new_tokens, rows=whole.rows, tokens=whole.tokens
    )
    loss_NT, sums = _policy_term(tokens, algorithm)
    sums["pg_loss"] = (weights_NT * loss_NT.detach()).sum()
    if tokens.reference_NT is not None and _kl_in_loss(algorithm):
        kl_NT = algo.kl(tokens.new_NT, tokens.reference_NT, algorithm.kl)
        sums["kl_loss"] = _sum(kl_NT.detach(), tokens)
        loss_NT = loss_NT + algorithm.kl_coefficient * kl_NT
    if algorithm.entropy_coefficient > 0:
        loss_NT = loss_NT - algorithm.entropy_coefficient * tokens.entropy_NT
    return (weights_NT * loss_NT).sum(), sums | _state_sums(tokens)


def metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a step from the sums over all its micro-batches and ranks.

    Means are over the tokens that were computed: without rows whose gradient was known to be 0.
    """
    tokens = max(sums["tokens"], 1)
    means = {name: sums[key] / tokens for key, name in PER_TOKEN.items() if key in sums}
    return means | {"actor/pg_loss": sums["pg_loss"]}


def _left_out(row: TrainingRow, algorithm: Algorithm) -> bool:
    return algorithm.mask_overlong and not row.finished


def _kl_in_loss(algorithm: Algorithm) -> bool:
    return algorithm.kl_coefficient > 0 and algorithm.kl_in == "loss"


def _blank_where_masked(tokens: Tokens) -> Tokens:
    """Return the tokens with 0 where the mask is: a mask cannot multiply an infinity away, nor its gradient."""
    hidden_NT = tokens.mask_NT == 0
    return dataclasses.replace(
        tokens,
        new_NT=tokens.new_NT.masked_fill(hidden_NT, 0.0),
        entropy_NT=tokens.entropy_NT.masked_fill(hidden_NT, 0.0),
        old_NT=tokens.old_NT.masked_fill(hidden_NT, 0.0),
        sampler_NT=tokens.sampler_NT.masked_fill(hidden_NT, 0.0),
        reference_NT=None if tokens.reference_NT is None else tokens.reference_NT.masked_fill(hidden_NT, 0.0),
    )


def _sum(values_NT: Tensor, tokens: Tokens) -> Tensor:
    return (values_NT * tokens.mask_NT).sum()


def _policy_term(tokens: Tokens, algorithm: Algorithm) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the policy loss of every token, corrected for the engine, and what clipping and capping did."""
    parts = _policy_loss(tokens, algorithm)
    sums = {
        "clipped": _sum(parts.clipped_low | parts.clipped_high, tokens),
        "clipped_low": _sum(parts.clipped_low, tokens),
        "clipped_high": _sum(parts.clipped_high, tokens),
        "dual_clipped": _sum(parts.dual_clipped, tokens),
    }
    if algorithm.importance == "none":
        return parts.loss, sums
    kind = algorithm.importance
    cap = IMPORTANCE_CAP[kind] if algorithm.importance_cap is None else algorithm.importance_cap
    importance = algo.importance_weights(tokens.old_NT, tokens.sampler_NT, tokens.mask_NT, kind, cap)
    sums |= {
        "importance": _sum(importance.weights, tokens),
        "importance_capped": _sum(importance.capped, tokens),
    }
    return parts.loss * importance.weights, sums


def _policy_loss(tokens: Tokens, algorithm: Algorithm) -> algo.PolicyLoss:
    new_NT, old_NT, advantages_N = tokens.new_NT, tokens.old_NT, tokens.advantages_N
    low, high = algorithm.clip_low, algorithm.clip_high
    match algorithm.loss:
        case "ppo":
            dual = algorithm.dual_clip
            return algo.policy_loss(new_NT, old_NT, advantages_N, clip_low=low, clip_high=high, dual_clip=dual)
        case "gspo":
            return algo.gspo_loss(new_NT, old_NT, advantages_N, tokens.mask_NT, clip_low=low, clip_high=high)
        case "cispo":
            return algo.cispo_loss(new_NT, old_NT, advantages_N, cap=algorithm.cispo_cap)
        case "cispo_verl":
            return algo.cispo_verl_loss(new_NT, old_NT, advantages_N, clip_low=low, clip_high=high)
        case unknown:
            assert_never(unknown)


def _state_sums(tokens: Tokens) -> dict[str, Tensor]:
    """Return entropy, how far the step has moved, and how far the engine is from the trainer (KL by k3)."""
    with torch.no_grad():
        return {
            "tokens": tokens.mask_NT.sum(),
            "entropy": _sum(tokens.entropy_NT, tokens),
            "ppo_kl": _sum(tokens.old_NT - tokens.new_NT, tokens),
            "engine_difference": _sum((tokens.old_NT - tokens.sampler_NT).abs(), tokens),
            "engine_kl": _sum(algo.kl(tokens.sampler_NT, tokens.old_NT, "k3"), tokens),
        }
