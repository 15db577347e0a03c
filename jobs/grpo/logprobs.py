"""Log-probabilities and entropies of given tokens under a language model's head.

Two ways to the same numbers: ``of_logits`` takes logits that exist; ``ChunkedHead`` makes them from hidden states, a
few tokens at a time, forward and backward, so that memory does not grow with tokens times vocabulary.

Shapes: M tokens, H the width of the model, V its vocabulary, N responses of at most T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from jobs.grpo.sampling import tempered_log_softmax
from orchestrator.errors import InputError


@dataclass(frozen=True)
class Scoring:
    """How logits become the distribution that sampler and trainer share.

    Attributes:
        banned: Tokens that are never sampled.
        temperature: Of the sampler.
        chunk: Tokens whose logits exist at a time.
        entropy_grad: Whether the entropy has a gradient.
    """

    banned: tuple[int, ...]
    temperature: float
    chunk: int
    entropy_grad: bool


def of_logits(
    logits: Tensor, tokens: Tensor, *, banned: Sequence[int], temperature: float, entropy_grad: bool = False
) -> tuple[Tensor, Tensor]:
    """Return log-probability and entropy of each token.

    Args:
        logits: Those that foretell the tokens, shape ``[..., V]``.
        tokens: Shape ``[...]``.
        banned: Tokens that cannot be sampled. One that is given nevertheless has log-probability -inf.
        temperature: Of the sampler.
        entropy_grad: Give the entropy a gradient. Without, it is detached.

    Returns:
        Both of shape ``[...]``; entropy in nats.
    """
    logp = tempered_log_softmax(logits, banned, temperature)
    picked = logp.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    if entropy_grad:
        return picked, _entropy_with_gradient(logp)
    with torch.no_grad():
        return picked, torch.special.entr(logp.detach().exp()).sum(-1)


class ChunkedHead(nn.Linear):
    """A model's head that also answers with log-probabilities, without ever holding the logits of all tokens.

    It takes the place of the model's ``lm_head`` and has its parameter. As the chunks are inside of one call, whatever
    gathers a sharded parameter when a module is called does so once, however many tokens a rank happens to have.
    """

    @classmethod
    def put(cls, model: Any) -> ChunkedHead:
        """Put one in the place of a model's head, unless it is there already, and return it.

        Raises:
            InputError: The model's head is not a plain linear layer without bias.
        """
        head = model.get_output_embeddings()
        if isinstance(head, cls):
            return head
        if type(head) is not nn.Linear or head.bias is not None:
            raise InputError(
                f"policy.logprob_chunk: the head of {type(model).__name__} is not a linear layer without bias but "
                f"{head}. Leave logprob_chunk out."
            )
        chunked = cls(head.in_features, head.out_features, bias=False, device="meta")
        chunked.weight = head.weight
        model.set_output_embeddings(chunked.train(head.training))
        return chunked

    def forward(self, hidden: Tensor, tokens_M: Tensor | None = None, scoring: Scoring | None = None) -> Any:
        """Return logits as any head, or log-probability and entropy of the tokens.

        Args:
            hidden: Last hidden states, shape ``[..., H]``; with tokens ``[M, H]``.
            tokens_M: Tokens that the states foretell.
            scoring: With tokens: how.

        Returns:
            Logits of shape ``[..., V]``, or two tensors of shape ``[M]``.
        """
        if tokens_M is None or scoring is None:
            return super().forward(hidden)
        return _ChunkedLogprobs.apply(hidden, self.weight, tokens_M, scoring, _compute_dtype(hidden))


class _ChunkedLogprobs(torch.autograd.Function):
    """Logits are made again in the backward pass, chunk by chunk; the weight's gradient is summed up in place."""

    @staticmethod
    def forward(
        ctx: Any, hidden_MH: Tensor, weight_VH: Tensor, tokens_M: Tensor, scoring: Scoring, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        logp_M = hidden_MH.new_empty(len(tokens_M), dtype=_wide(dtype))
        entropy_M = torch.empty_like(logp_M)
        with torch.autocast(hidden_MH.device.type, enabled=False):
            cast_VH = weight_VH.to(dtype)
            for span in _spans(len(tokens_M), scoring.chunk):
                logp_M[span], entropy_M[span] = of_logits(
                    functional.linear(hidden_MH[span].to(dtype), cast_VH),
                    tokens_M[span],
                    banned=scoring.banned,
                    temperature=scoring.temperature,
                )
        # The parameter itself and not its copy in another dtype, which would live as long as the graph.
        ctx.save_for_backward(hidden_MH, weight_VH, tokens_M, entropy_M)
        ctx.scoring, ctx.dtype = scoring, dtype
        if not scoring.entropy_grad:
            ctx.mark_non_differentiable(entropy_M)
        return logp_M, entropy_M

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, logp_grad_M: Tensor, entropy_grad_M: Tensor) -> tuple[Tensor | None, ...]:
        hidden_MH, weight_VH, tokens_M, entropy_M = ctx.saved_tensors
        scoring: Scoring = ctx.scoring
        hidden_grad_MH = torch.empty_like(hidden_MH) if ctx.needs_input_grad[0] else None
        weight_grad_VH = torch.zeros_like(weight_VH, dtype=_wide(ctx.dtype)) if ctx.needs_input_grad[1] else None
        with torch.autocast(hidden_MH.device.type, enabled=False):
            cast_VH = weight_VH.to(ctx.dtype)
            for span in _spans(len(tokens_M), scoring.chunk):
                cast_CH = hidden_MH[span].to(ctx.dtype)
                grad_CV = _logits_gradient(
                    functional.linear(cast_CH, cast_VH),
                    tokens_M[span],
                    scoring,
                    logp_grad_M[span],
                    (entropy_M[span], entropy_grad_M[span]) if scoring.entropy_grad else None,
                ).to(ctx.dtype)
                if hidden_grad_MH is not None:
                    hidden_grad_MH[span] = grad_CV @ cast_VH
                if weight_grad_VH is not None:
                    _add_product(weight_grad_VH, grad_CV.T, cast_CH)
        gradient_VH = None if weight_grad_VH is None else weight_grad_VH.to(weight_VH.dtype)
        return hidden_grad_MH, gradient_VH, None, None, None


def _logits_gradient(
    logits_CV: Tensor, tokens_C: Tensor, scoring: Scoring, logp_grad_C: Tensor, entropy: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Return the gradient of the logits.

    With z = logits / temperature and p = softmax(z): d logp(t) / dz_j = [j = t] - p_j and, for the entropy E,
    dE / dz_j = -p_j log p_j - p_j E. A banned token has p = 0, for which -p log p is 0 and not NaN.
    """
    p_CV = tempered_log_softmax(logits_CV, scoring.banned, scoring.temperature).exp_()
    factor_C1 = -logp_grad_C.unsqueeze(-1)
    if entropy is None:
        grad_CV = p_CV.mul_(factor_C1)
    else:
        entropy_C1, entropy_grad_C1 = (part.unsqueeze(-1) for part in entropy)
        grad_CV = torch.special.entr(p_CV).mul_(entropy_grad_C1)
        grad_CV.addcmul_(p_CV, factor_C1 - entropy_C1 * entropy_grad_C1)
    return grad_CV.scatter_add_(-1, tokens_C.unsqueeze(-1), -factor_C1).div_(scoring.temperature)


def _entropy_with_gradient(logp: Tensor) -> Tensor:
    # entr has an infinite slope at 0, where banned tokens are; 0 in place of their -inf gives them none.
    finite = logp.masked_fill(logp == -torch.inf, 0.0)
    return -(logp.exp() * finite).sum(-1)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _spans(length: int, size: int) -> Iterator[slice]:
    for first in range(0, length, size):
        yield slice(first, min(first + size, length))


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """Return what a linear layer would compute in here: under autocast its dtype, else the input's."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
