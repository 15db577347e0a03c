"""Which rows share a forward pass, and rows one behind the other in place of padding.

Packed rows form one sequence whose positions start again at 0 with every row. transformers finds the
rows by that and lets none see another: flash-attention by sequence lengths, sdpa by a block-diagonal mask.

Shapes: N rows of at most T tokens, L tokens of a packed sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Row = TypeVar("Row")


def by_rows(rows: Sequence[Row], size: int) -> list[list[Row]]:
    """Return the rows in parts of ``size``, in their order.

    >>> by_rows("abcde", 2)
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    return [list(rows[first : first + size]) for first in range(0, len(rows), size)]


def by_tokens(rows: Sequence[Row], lengths: Sequence[int], budget: int, *, padded: bool) -> list[list[Row]]:
    """Return the rows in parts of at most ``budget`` tokens, in their order, each part as full as it can be.

    A row longer than the budget is a part of its own: it is never cut, since a cut could go through an image.

    Args:
        rows: What to part.
        lengths: Tokens of each.
        budget: Most tokens of a part.
        padded: Whether a part costs its longest row times its rows, or only what its rows have.

    >>> by_tokens("abcd", [4, 3, 3, 9], 10, padded=False)
    [['a', 'b', 'c'], ['d']]
    >>> by_tokens("abcd", [4, 3, 3, 9], 10, padded=True)
    [['a', 'b'], ['c'], ['d']]
    """
    parts: list[list[Row]] = []
    taken: list[int] = []
    for row, length in zip(rows, lengths, strict=True):
        taken.append(length)
        if not parts or _cost(taken, padded=padded) > budget:
            parts.append([])
            taken = [length]
        parts[-1].append(row)
    return parts


def pack(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what ``vlm.pad_sequences`` has padded without the padding, the rows in one sequence.

    Args:
        inputs: ``attention_mask``, ``input_ids`` and, with images, ``mm_token_type_ids``, each ``[N, T]``. All others
            belong to images, which stand one behind the other already.

    Returns:
        Without the mask, ``[1, L]`` in place of ``[N, T]``, and ``position_ids`` that count each row from 0.
    """
    present_NT = inputs["attention_mask"].bool()
    counted_NT = torch.arange(present_NT.shape[1], device=present_NT.device).expand(present_NT.shape)
    packed = {name: value for name, value in inputs.items() if name != "attention_mask"}
    packed |= {
        name: packed[name][present_NT].unsqueeze(0) for name in ("input_ids", "mm_token_type_ids") if name in packed
    }
    return packed | {"position_ids": counted_NT[present_NT].unsqueeze(0)}


def with_model_positions(backbone: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return packed inputs with positions in time, height and width, if the model has such.

    The model's own ``get_rope_index`` counts through the whole sequence; what a row's first token got is taken off
    the row. In front stand the positions in the text, by which the attention tells the rows apart.

    Args:
        backbone: The model without its head.
        inputs: Of ``pack``.

    Returns:
        ``position_ids`` of shape ``[4, 1, L]`` in place of ``[1, L]``; unchanged for a text-only model.
    """
    if not hasattr(backbone, "get_rope_index"):
        return inputs
    text_1L = inputs["position_ids"]
    if "image_grid_thw" not in inputs:
        return inputs | {"position_ids": text_1L.expand(4, *text_1L.shape)}
    counted_31L, _ = backbone.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=inputs["image_grid_thw"],
    )
    first_L = torch.arange(text_1L.shape[1], device=text_1L.device) - text_1L[0]
    rope_31L = counted_31L - counted_31L[:, :, first_L]
    return inputs | {"position_ids": torch.cat([text_1L.unsqueeze(0), rope_31L])}


def _cost(lengths: Sequence[int], *, padded: bool) -> int:
    return max(lengths) * len(lengths) if padded else sum(lengths)
