"""What sampler and trainer share: where they compute, and the distribution that tokens are drawn from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def device() -> str:
    """Return where this process computes: its first visible GPU, or the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def tempered_logits(logits: Tensor, banned: Sequence[int] | Tensor, temperature: float) -> Tensor:
    """Return the logits that responses are sampled from, in float32.

    Args:
        logits: The model's, shape ``[..., V]``.
        banned: Tokens that are never sampled; they get -inf.
        temperature: Divides the others.
    """
    # float64 stays float64, in which gradients are checked.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    if len(banned):
        logits = logits.index_fill(-1, torch.as_tensor(banned, device=logits.device), -torch.inf)
    return logits


def tempered_log_softmax(logits: Tensor, banned: Sequence[int], temperature: float) -> Tensor:
    """Return the log-probabilities that sampler and trainer share, in float32. Arguments as ``tempered_logits``.

    Both must ban the same tokens and use the same temperature, or the importance ratio is not 1 for
    unchanged weights (R1-V #91, VLM-R1 #252).
    """
    return torch.log_softmax(tempered_logits(logits, banned, temperature), dim=-1)
