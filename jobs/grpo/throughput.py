"""How fast the policy is trained: tokens per second, and the share of the GPUs' arithmetic that it takes (MFU).

FLOPs are counted from shapes, two for every multiplication with an addition, and only those of matrix products. What
padding, packing or a slow kernel does on top is waste, and lowers the share.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.grpo.settings import Policy

PEAK_FLOPS = {
    "B200": 2250e12,
    "GB200": 2500e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "H100": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H800": 989e12,
    "H800 PCIe": 756e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L20": 119.5e12,
    "L4": 121e12,
}
"""Dense bfloat16 per second, by what torch calls the GPU. Source: NVIDIA's data sheets, where numbers "with sparsity"
are twice these. verl has the same for those that it knows."""

SUPPORTED = ("qwen2", "qwen2_5_vl")


@dataclass(frozen=True, kw_only=True)
class Vision:
    """What of a vision tower decides its FLOPs.

    Attributes:
        embedding: Weights that every patch meets first, as pixels.
        blocks: Weights of all blocks together.
        last: Of these, weights of each block's last product.
        merger: Weights that each group of merged patches meets.
        merge: Patches along each side of such a group.
        width: Numbers per patch.
        full: Blocks in which a patch attends to its whole image.
        windowed: Blocks in which it attends to its window.
        window: Patches along each side of a window.
    """

    embedding: int
    blocks: int
    last: int
    merger: int
    merge: int
    width: int
    full: int
    windowed: int
    window: int


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a model decides its FLOPs.

    Attributes:
        layers: How many the language model has.
        blocks: Weights of all its layers together.
        last: Of these, weights of each layer's last product.
        head: Weights of the output layer; the input embedding is a look-up and costs nothing.
        width: Query heads times numbers per head.
        vision: None for a text-only model.
    """

    layers: int
    blocks: int
    last: int
    head: int
    width: int
    vision: Vision | None


@dataclass(frozen=True, kw_only=True)
class RowSize:
    """One row of a step.

    Attributes:
        tokens: Prompt, image tokens and completion together.
        completion: Of these, tokens whose log-probability is asked.
        images: Patches of each image in time, height and width, as ``image_grid_thw`` has them.
    """

    tokens: int
    completion: int
    images: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Passes:
    """FLOPs per weight and input, and how often attention is paid for, in one step.

    A product costs 2 forward, 2 for the gradient of its input and 2 for that of its weights; attention has no weights,
    and backward costs twice its forward.
    """

    linear: int
    attention: int
    first: int
    """Per weight of a layer whose input needs no gradient."""


WHOLLY_TRAINED = Passes(linear=6, attention=3, first=4)
GRADIENT_PASSES_THROUGH = Passes(linear=4, attention=3, first=2)
FROZEN = Passes(linear=2, attention=1, first=2)


def shape(config: Any) -> Shape | None:
    """Return the shape of a Qwen2 or Qwen2.5-VL from its transformers config; None for any other model."""
    if config.model_type not in SUPPORTED:
        return None
    text = config.get_text_config()
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    queries, keys = text.num_attention_heads * head_width, text.num_key_value_heads * head_width
    layer = text.hidden_size * (2 * queries + 2 * keys + 3 * text.intermediate_size)
    return Shape(
        layers=text.num_hidden_layers,
        blocks=text.num_hidden_layers * layer,
        last=text.num_hidden_layers * text.hidden_size * text.intermediate_size,
        head=text.hidden_size * text.vocab_size,
        width=queries,
        vision=_vision(config.vision_config) if config.model_type == "qwen2_5_vl" else None,
    )


def update_flops(shape: Shape, rows: Sequence[RowSize], policy: Policy, *, recomputed: bool = False) -> float:
    """Return the FLOPs of one optimiser step on ``rows``: forward, backward, nothing of the optimiser.

    About 6 times weights times tokens, and attention. A frozen vision tower has no backward at all. With adapters the
    gradient passes through frozen weights, 4 in place of 6; the adapters' own products, about a hundredth of the rest,
    are left out, as are the forward passes for old and reference log-probabilities.

    Args:
        shape: Of the model.
        rows: Those that are computed, of all ranks. The head counts for completions only, which is all the loss needs.
        policy: What is trained.
        recomputed: Count the second forward pass of gradient checkpointing too: what the hardware does and not what the
            model needs. Up to 8 in place of 6; torch leaves each layer's last product out, whose result nothing needs.

    Source:
        Chowdhery et al., "PaLM", 2204.02311, appendix B. verl's ``flops_counter`` counts the head for every token, and
        the input embedding like a second head, so its MFU of the same step is higher, for a 3 B model by 10 to 22 %.
    """
    language = GRADIENT_PASSES_THROUGH if policy.lora else WHOLLY_TRAINED
    again = int(recomputed and policy.gradient_checkpointing)
    tokens = sum(row.tokens for row in rows)
    # Half of S * S, as no token attends to later ones; both products, queries with keys and weights with values.
    pairs = sum(row.tokens**2 for row in rows) / 2
    return (
        language.linear * shape.blocks * tokens
        + 2 * again * (shape.blocks - shape.last) * tokens
        + language.linear * shape.head * sum(row.completion for row in rows)
        + (language.attention + again) * 4 * pairs * shape.width * shape.layers
        + _vision_flops(shape.vision, rows, policy, again)
    )


def peak_flops(device: str) -> float | None:
    """Return what a GPU can do in a second, dense bfloat16; None if it is unknown, or a slice of a GPU (MIG).

    Args:
        device: As ``torch.cuda.get_device_name`` says it, for example ``"NVIDIA H100 80GB HBM3"``.
    """
    if "MIG" in device.split():
        return None
    named = [name for name in PEAK_FLOPS if re.search(rf"\b{name}\b", device)]
    return PEAK_FLOPS[max(named, key=len)] if named else None


def mfu(
    shape: Shape | None, rows: Sequence[RowSize], policy: Policy, *, seconds: float, gpus: int, device: str | None
) -> dict[str, float]:
    """Return ``perf/mfu/actor``, the update's share of what its GPUs can do; nothing where that is unknown.

    With gradient checkpointing there is ``perf/hfu/actor`` too, in which the recomputed pass counts. Both are shares of
    bfloat16's peak, in float32 as well: that is what the GPU could have done.

    Args:
        shape: Of the model; None if it is unknown.
        rows: Those that were computed, of all ranks, once for every epoch on them.
        policy: What is trained.
        seconds: The update took.
        gpus: That took part.
        device: Their name; None on CPUs.
    """
    peak = None if device is None else peak_flops(device)
    if shape is None or peak is None or gpus == 0 or seconds <= 0:
        return {}
    possible = peak * gpus * seconds
    shares = {"perf/mfu/actor": update_flops(shape, rows, policy) / possible}
    if policy.gradient_checkpointing:
        shares["perf/hfu/actor"] = update_flops(shape, rows, policy, recomputed=True) / possible
    return shares


def rates(tokens: int, *, seconds: float, gpus: int) -> dict[str, float]:
    """Return a step's size and speed under verl's names.

    Args:
        tokens: Prompts and responses of all rows of the step.
        seconds: The whole step took.
        gpus: Of the role; ``perf/throughput`` is per GPU, or of the whole role on CPUs.
    """
    return {
        "perf/total_num_tokens": float(tokens),
        "perf/time_per_step": seconds,
        "perf/throughput": tokens / seconds / max(gpus, 1),
    }


def _vision(config: Any) -> Vision:
    width, merge = config.hidden_size, config.spatial_merge_size
    pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    merged = width * merge**2
    full = len(config.fullatt_block_indexes)
    return Vision(
        embedding=pixels * width,
        blocks=config.depth * width * (4 * width + 3 * config.intermediate_size),
        last=config.depth * width * config.intermediate_size,
        merger=merged * (merged + config.out_hidden_size),
        merge=merge,
        width=width,
        full=full,
        windowed=config.depth - full,
        # Whole groups only, as the model rounds.
        window=config.window_size // merge // config.patch_size * merge,
    )


def _vision_flops(vision: Vision | None, rows: Sequence[RowSize], policy: Policy, again: int) -> float:
    if vision is None:
        return 0.0
    trained = policy.train_vision and not policy.lora
    passes, again = (WHOLLY_TRAINED, again) if trained else (FROZEN, 0)
    images = [image for row in rows for image in row.images]
    patches = sum(time * height * width for time, height, width in images)
    attended = sum(_attended(vision, *image) for image in images)
    return (
        passes.first * vision.embedding * patches
        + passes.linear * vision.blocks * patches
        + 2 * again * (vision.blocks - vision.last) * patches
        + passes.linear * vision.merger * (patches // vision.merge**2)
        + (passes.attention + again) * 4 * attended * vision.width
    )


def _attended(vision: Vision, time: int, height: int, width: int) -> int:
    """Return the pairs of patches that attend to each other, over all blocks; frames do not see one another."""
    windows = _sum_of_squares(height, vision.window) * _sum_of_squares(width, vision.window)
    return time * (vision.full * (height * width) ** 2 + vision.windowed * windows)


def _sum_of_squares(length: int, window: int) -> int:
    whole, rest = divmod(length, window)
    return whole * window**2 + rest**2
