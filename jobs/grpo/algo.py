"""The arithmetic of GRPO as pure functions of tensors: advantages, losses, KL, importance, aggregation.

Shapes: ``N`` samples, ``T`` completion tokens (right-padded). A mask is 1 on a completion's tokens.
A reward of NaN is a verdict that never came. Checked against the numbers on which verl, EasyR1,
OpenRLHF and TRL agree (``tests/jobs/grpo/test_vectors.py``). What of it a run uses and in which order
is decided in ``objective``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Normalise = Literal["group", "batch", "none", "rloo"]
Aggregation = Literal["token_mean", "seq_mean_token_mean", "dr_grpo"]
Importance = Literal["token", "sequence_mask"]

ZERO_SPREAD = 1e-6
"""A group whose rewards spread less than this teaches nothing: judge scores are floats, and dividing
their rounding noise by itself would make a full-sized advantage of it."""


def advantages(
    rewards_N: Tensor,
    groups: Sequence[object],
    *,
    normalise: Normalise = "group",
    eps: float = 1e-4,
    min_valid: int = 2,
) -> Tensor:
    """Return how much better each sample is than its group.

    A missing reward (NaN) leaves mean and spread, and its own advantage is 0: a judge that did not
    answer says nothing about the response. A group with fewer than ``min_valid`` rewards, or with no
    spread, gets 0 throughout.

    Args:
        rewards_N: Total rewards, shape ``[N]``.
        groups: The group of each sample, equal for samples of one prompt.
        normalise: ``group`` divides by the group's standard deviation (ddof 1) plus ``eps``;
            ``batch`` by the whole batch's; ``none`` does not divide (Dr.GRPO); ``rloo`` compares
            with the mean of the other samples.
        eps: TRL 1e-4 (ours), verl and Perception-R1 1e-6, OpenRLHF 1e-9.
        min_valid: Fewest rewards a group must have.

    Returns:
        Advantages, shape ``[N]``, in the dtype of ``rewards_N``.

    Source:
        Shao et al., "DeepSeekMath", 2402.03300, section 4.1; Liu et al., "Understanding R1-Zero-like
        training", 2503.20783 (none); Ahmadian et al., 2402.14740 (rloo). The handling of NaN is TRL's.
    """
    result = torch.zeros_like(rewards_N)
    valid = ~torch.isnan(rewards_N)
    batch_std = rewards_N[valid].std(unbiased=True) if int(valid.sum()) > 1 else rewards_N.new_zeros(())
    names = list(dict.fromkeys(groups))
    for name in names:
        rows = torch.tensor([g == name for g in groups], device=rewards_N.device) & valid
        count = int(rows.sum())
        if count < max(min_valid, 2):
            continue
        rewards = rewards_N[rows]
        std = rewards.std(unbiased=True)
        if float(std) < ZERO_SPREAD:
            continue
        centred = rewards - rewards.mean()
        if normalise == "group":
            centred = centred / (std + eps)
        elif normalise == "batch":
            centred = centred / (batch_std + eps)
        elif normalise == "rloo":
            centred = centred * count / (count - 1)
        result[rows] = centred
    return result


def token_weights(
    mask_NT: Tensor, aggregation: Aggregation, *, max_tokens: int, rows: int | None = None, tokens: int | None = None
) -> Tensor:
    """Return the weight of every token's loss in the loss of one optimiser step.

    The weights are fixed before the first backward from counts over *all* rows of the step, so the
    gradient is the same for 1, 2 or 4 micro-batches and any number of ranks: each micro-batch just
    sums weight times loss.

    Args:
        mask_NT: Completion mask of these rows, shape ``[N, T]``.
        aggregation: ``token_mean`` weighs every token alike (DAPO, verl's default);
            ``seq_mean_token_mean`` every response alike (original GRPO); ``dr_grpo`` divides by
            rows times ``max_tokens``, so that length does not matter.
        max_tokens: The longest completion allowed, tokens.
        rows: Rows of the whole step if these are only some of them.
        tokens: Completion tokens of the whole step, likewise.
    """
    mask = mask_NT.to(torch.get_default_dtype()) if not mask_NT.is_floating_point() else mask_NT
    rows = mask.shape[0] if rows is None else rows
    if aggregation == "token_mean":
        total = int(mask.sum()) if tokens is None else tokens
        return mask / max(total, 1)
    if aggregation == "seq_mean_token_mean":
        return mask / mask.sum(-1, keepdim=True).clamp(min=1) / max(rows, 1)
    return mask / (max(rows, 1) * max_tokens)


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """Loss per token, ``[N, T]``, and where clipping acted (boolean, ``[N, T]``)."""

    loss: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    dual_clipped: Tensor


def policy_loss(
    logp_new_NT: Tensor,
    logp_old_NT: Tensor,
    advantages_N: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """Return the clipped policy-gradient loss of every token.

    With ``logp_old = logp_new.detach()`` (one step per batch) the ratio is 1, nothing is clipped and
    the gradient is REINFORCE's.

    Args:
        logp_new_NT: Log-probabilities under the policy being trained, shape ``[N, T]``.
        logp_old_NT: Those of the policy that sampled.
        advantages_N: Shape ``[N]``, the same for all tokens of a response.
        clip_low: The ratio is not pushed below ``1 - clip_low``.
        clip_high: Nor above ``1 + clip_high``; larger than ``clip_low`` is DAPO's clip-higher.
        dual_clip: For negative advantages the loss is at most ``-dual_clip * A``. None is off.

    Source:
        Schulman et al., "Proximal policy optimization", 1707.06347, eq. 7; Ye et al., 1912.09729
        (dual clip); Yu et al., "DAPO", 2503.14476 (clip-higher).
    """
    ratio = torch.exp(logp_new_NT - logp_old_NT)
    advantage = advantages_N.unsqueeze(-1)
    plain = -ratio * advantage
    clipped = -ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    loss = torch.maximum(plain, clipped)
    low = (ratio < 1 - clip_low) & (advantage < 0)
    high = (ratio > 1 + clip_high) & (advantage > 0)
    dual = torch.zeros_like(low)
    if dual_clip is not None:
        ceiling = -dual_clip * advantage
        dual = (advantage < 0) & (loss > ceiling)
        loss = torch.where(advantage < 0, torch.minimum(loss, ceiling), loss)
    return PolicyLoss(loss=loss, clipped_low=low, clipped_high=high, dual_clipped=dual)


def gspo_loss(
    logp_new_NT: Tensor,
    logp_old_NT: Tensor,
    advantages_N: Tensor,
    mask_NT: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> PolicyLoss:
    """Return the loss of GSPO: every token has its response's, whose ratio is the geometric mean of its tokens'.

    The ratio of a whole response lies far closer to 1 than a token's, so the clipping range is smaller by orders.
    The paper averages over responses, which is ``seq_mean_token_mean`` here.

    Args:
        logp_new_NT: As for ``policy_loss``.
        logp_old_NT: As for ``policy_loss``.
        advantages_N: Shape ``[N]``.
        mask_NT: Completion mask; a response without a token has the ratio 1.
        clip_low: The paper has 3e-4.
        clip_high: The paper has 4e-4.

    Source:
        Zheng et al., "Group sequence policy optimization", 2507.18071, eq. 5 to 7. The gradient is that of verl's
        and TRL's code wherever a response's tokens weigh alike, as they do in all three aggregations.
    """
    log_ratio_NT = (logp_new_NT - logp_old_NT) * mask_NT
    mean_N1 = log_ratio_NT.sum(-1, keepdim=True) / mask_NT.sum(-1, keepdim=True).clamp(min=1)
    mean_NT = mean_N1.expand_as(log_ratio_NT)
    return policy_loss(mean_NT, torch.zeros_like(mean_NT), advantages_N, clip_low=clip_low, clip_high=clip_high)


def cispo_loss(logp_new_NT: Tensor, logp_old_NT: Tensor, advantages_N: Tensor, *, cap: float) -> PolicyLoss:
    """Return CISPO's loss as MiniMax and TRL have it: REINFORCE weighed by the ratio, at most ``cap``.

    No token is ever left out of the gradient; clipping only bounds its weight, which has no gradient. As TRL does,
    only capped tokens with a positive advantage count as clipped.

    Args:
        logp_new_NT: As for ``policy_loss``.
        logp_old_NT: As for ``policy_loss``.
        advantages_N: Shape ``[N]``.
        cap: Of the ratio itself, not of its distance from 1.

    Source:
        MiniMax-M1, 2506.13585, eq. 4 and 5, without the lower bound, which they do not use either.
    """
    ratio = torch.exp(logp_new_NT - logp_old_NT).detach()
    advantage = advantages_N.unsqueeze(-1)
    never = torch.zeros_like(ratio, dtype=torch.bool)
    return PolicyLoss(
        loss=-ratio.clamp(max=cap) * advantage * logp_new_NT,
        clipped_low=never,
        clipped_high=(ratio > cap) & (advantage > 0),
        dual_clipped=never,
    )


def cispo_verl_loss(
    logp_new_NT: Tensor, logp_old_NT: Tensor, advantages_N: Tensor, *, clip_low: float, clip_high: float
) -> PolicyLoss:
    """Return CISPO's loss as verl has it: the weight lies within ``1 - clip_low`` and ``1 + clip_high``.

    The same name as ``cispo_loss`` and another objective. As in verl, every token whose weight is changed counts
    as clipped, whatever its advantage. Arguments as for ``policy_loss``.
    """
    ratio = torch.exp(logp_new_NT - logp_old_NT).detach()
    low, high = 1 - clip_low, 1 + clip_high
    return PolicyLoss(
        loss=-ratio.clamp(low, high) * advantages_N.unsqueeze(-1) * logp_new_NT,
        clipped_low=ratio < low,
        clipped_high=ratio > high,
        dual_clipped=torch.zeros_like(ratio, dtype=torch.bool),
    )


def kl(logp_new_NT: Tensor, logp_ref_NT: Tensor, kind: Literal["k1", "k2", "k3"] = "k3") -> Tensor:
    """Return the estimate of KL(new || ref) at every token, from sampled tokens only.

    k1 is unbiased but, used as a loss, has a gradient of mean zero; k2's gradient is right; k3 is
    never negative. Perception-R1 clamps k3 to 10 in magnitude; a difference so large that it would
    matter has left the region where any of the three means something, so we do not hide it.

    Source: Schulman, "Approximating KL divergence", 2020.
    """
    d = logp_ref_NT - logp_new_NT
    if kind == "k1":
        return -d
    if kind == "k2":
        return d.square() / 2
    return torch.exp(d) - d - 1


@dataclass(frozen=True, kw_only=True)
class ImportanceWeights:
    """What each token's loss is multiplied by, ``[N, T]``, and where the cap acted (boolean, ``[N, T]``)."""

    weights: Tensor
    capped: Tensor


def importance_weights(
    logp_trainer_NT: Tensor, logp_sampler_NT: Tensor, mask_NT: Tensor, kind: Importance, cap: float
) -> ImportanceWeights:
    """Return the correction for a sampler whose probabilities are not the trainer's. It has no gradient.

    Both sides must be given at the sampling temperature and over the whole vocabulary (top_p 1, no top_k), or the
    ratio measures the sampler's settings.

    Args:
        logp_trainer_NT: Of the weights that sampled, computed by the trainer, shape ``[N, T]``.
        logp_sampler_NT: As the sampler reported them.
        mask_NT: Completion mask.
        kind: ``token`` is truncated importance sampling: each token's ratio, at most ``cap``. ``sequence_mask``
            weighs a response by the product of its tokens' ratios, and leaves it out if that exceeds ``cap``.
        cap: Largest weight.

    Source:
        Yao et al., "Your efficient RL framework secretly brings you off-policy RL training", 2025 (token); TRL's
        ``vllm_importance_sampling_mode`` (sequence_mask).
    """
    difference_NT = (logp_trainer_NT - logp_sampler_NT).detach() * mask_NT
    if kind == "token":
        ratio_NT = torch.exp(difference_NT)
        return ImportanceWeights(weights=ratio_NT.clamp(max=cap), capped=ratio_NT > cap)
    ratio_NT = torch.exp(difference_NT.sum(-1, keepdim=True)).expand_as(difference_NT)
    left_out_NT = ratio_NT > cap
    return ImportanceWeights(weights=ratio_NT.masked_fill(left_out_NT, 0.0), capped=left_out_NT)


def overlong_penalty(lengths_N: Tensor, *, longest: int, margin: int) -> Tensor:
    """Return what to add to the rewards of responses that come near the longest length.

    0 up to ``longest - margin`` tokens, from there in a straight line to -1 at ``longest``, and -1 beyond.

    Args:
        lengths_N: Tokens of each response, shape ``[N]``.
        longest: Tokens after which a response is cut off (the paper's L_max).
        margin: Tokens over which the penalty grows (its L_cache).

    Returns:
        Penalties, shape ``[N]``, float64.

    Source:
        Yu et al., "DAPO", 2503.14476, eq. 13.

    >>> overlong_penalty(torch.tensor([16, 18, 21]), longest=20, margin=4)
    tensor([ 0.0000, -0.5000, -1.0000], dtype=torch.float64)
    """
    return ((longest - margin - lengths_N.double()) / margin).clamp(-1.0, 0.0)
