"""Qwen2.5-VL: the one place that knows its tokens, pixels and positions.

Shapes: B rows, T tokens, P patches of all images, D numbers per patch, I images. Prompts are kept
expanded: one image token for every merged patch, as the model's forward wants them. An engine
that expands images itself (vLLM) collapses them with ``collapsed``.

Text-only models of the Qwen2 family take the same ways in and out; their prompts have no images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jobs import torchvision_cpu

torchvision_cpu.repair()

from transformers import (  # noqa: E402  # after the repair, without which the image classes cannot be imported
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from jobs import data  # noqa: E402

BANNED = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
END = "<|im_end|>"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One user turn, ready for the model.

    Attributes:
        input_ids: Image tokens expanded; ends where the reply begins.
        pixel_values: Patches of all images, shape ``[P, D]``; None without images.
        image_grid_thw: Patches in time, height and width, shape ``[I, 3]``; None without images.
        image_token: The id of the expanded token; None for a text-only model.
    """

    input_ids: list[int]
    pixel_values: Tensor | None = None
    image_grid_thw: Tensor | None = None
    image_token: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Prompts and completions, padded on the right, for one training forward.

    Attributes:
        inputs: Keyword arguments of the model's forward.
        completion_mask: True where ``inputs["input_ids"]`` holds a completion's token, shape ``[B, T]``.
            The logits that foretell token t stand at t - 1.
    """

    inputs: dict[str, Tensor]
    completion_mask: Tensor


def load_processor(folder: str | Path) -> Any:
    """Return the folder's processor; for a text-only model its tokenizer, which has the same calls."""
    if _has_images(AutoConfig.from_pretrained(folder)):
        return AutoProcessor.from_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def load_model(
    folder: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    attention: str = "sdpa",
    trainable: bool = True,
) -> Any:
    """Return the folder's model on ``device``.

    Args:
        folder: A Hugging Face folder, or a name on the hub.
        dtype: ``"float32"``, ``"bfloat16"``, ...
        device: Where to put it.
        attention: ``"sdpa"``, ``"flash_attention_2"`` (CUDA only) or ``"eager"``.
        trainable: False freezes all parameters. Either way the model is in ``eval`` mode, so that no
            dropout separates the sampler's probabilities from the trainer's.
    """
    family = AutoModelForImageTextToText if _has_images(AutoConfig.from_pretrained(folder)) else AutoModelForCausalLM
    model = family.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation=attention)
    return model.to(device).requires_grad_(trainable).eval()


def tokenizer(processor: Any) -> Any:
    """Return the tokenizer of a processor, or a tokenizer itself."""
    return getattr(processor, "tokenizer", processor)


def vision_tower(model: Any) -> Any:
    """Return the part of a plain model that sees, its merger included; None of a text-only model."""
    return getattr(model.model, "visual", None)


def encode(processor: Any, text: str, images: Sequence[bytes], *, system: str = "") -> Prompt:
    """Return one user turn through the model's own chat template, up to where the reply begins.

    Args:
        processor: Of ``load_processor``.
        text: What the user says, one ``<image>`` for each image.
        images: Encoded image files, in the order of their placeholders.
        system: What the system says before; empty leaves it to the template.

    Raises:
        ValueError: Placeholders and images differ in number, or the text brings image tokens of
            its own, so that the model would look for images that are not there.
    """
    if text.count(data.IMAGE) != len(images):
        raise ValueError(f"The text has {text.count(data.IMAGE)} {data.IMAGE} for {len(images)} image(s): {text!r}.")
    smuggled = [token for token in BANNED if token in text]
    if smuggled:
        raise ValueError(f"The text holds the image token(s) {', '.join(smuggled)}; only {data.IMAGE} stands for one.")
    before = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    return encode_chat(processor, [*before, {"role": "user", "content": _content(text)}], images)


def encode_chat(processor: Any, messages: list[dict[str, Any]], images: Sequence[bytes] = ()) -> Prompt:
    """Return a conversation up to where the reply begins. See ``encode``."""
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if not images:
        return Prompt(input_ids=tokenizer(processor)(text, add_special_tokens=False)["input_ids"])
    inputs = processor(text=[text], images=[data.decode(image) for image in images], return_tensors="pt")
    prompt = Prompt(
        input_ids=inputs["input_ids"][0].tolist(),
        pixel_values=inputs["pixel_values"],
        image_grid_thw=inputs["image_grid_thw"],
        image_token=processor.image_token_id,
    )
    _check_image_tokens(prompt, processor.image_processor.merge_size)
    return prompt


def collapsed(prompt: Prompt) -> list[int]:
    """Return the prompt with one image token for each image, as vLLM takes it."""
    image = prompt.image_token
    return [t for token, run in groupby(prompt.input_ids) for t in ([token] if token == image else run)]


def pad_left(prompts: Sequence[Prompt], pad_id: int, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Return the prompts as keyword arguments of ``model.generate``, their ends aligned."""
    return _inputs(prompts, [prompt.input_ids for prompt in prompts], pad_id, device, left=True)


def pad_sequences(
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[int]],
    pad_id: int,
    device: str | torch.device = "cpu",
) -> Sequences:
    """Return prompts followed by their completions, beginnings aligned, for the training forward.

    The model computes its three-dimensional positions from ``mm_token_type_ids``, ``image_grid_thw``
    and ``attention_mask``; without the first it would silently count positions in one dimension.
    """
    rows = [[*prompt.input_ids, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    inputs = _inputs(prompts, rows, pad_id, device, left=False)
    mask = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        start = len(prompt.input_ids)
        mask[row, start : start + len(completion)] = True
    return Sequences(inputs=inputs, completion_mask=mask.to(device))


def banned_ids(processor: Any) -> list[int]:
    """Return the image, video and vision tokens, which a sampler must never emit.

    A completion with an image token in it makes the training forward look for an image that is not
    there. The trainer leaves the same ids out of its log-softmax, or ratios are not 1.
    """
    vocabulary = tokenizer(processor).get_vocab()
    return sorted(vocabulary[token] for token in BANNED if token in vocabulary)


def end_id(processor: Any) -> int:
    """Return the token that ends a reply."""
    identity: int = tokenizer(processor).convert_tokens_to_ids(END)
    return identity


def positions(folder: str | Path) -> int:
    """Return how many tokens a sequence of the folder's model may have."""
    longest: int = AutoConfig.from_pretrained(folder).get_text_config().max_position_embeddings
    return longest


def pad_id(processor: Any) -> int:
    """Return the token to pad with; it is masked everywhere."""
    identity: int = tokenizer(processor).pad_token_id
    return identity


def decode(processor: Any, ids: Sequence[int], *, keep_special: bool = False) -> str:
    """Return a completion's text, spaces as they were generated.

    Args:
        processor: The model's.
        ids: The tokens.
        keep_special: Leave special tokens in, such as ``<|box_start|>``, and the token that ends a reply.
    """
    text: str = tokenizer(processor).decode(
        list(ids), skip_special_tokens=not keep_special, clean_up_tokenization_spaces=False
    )
    return text


def _has_images(config: Any) -> bool:
    return getattr(config, "vision_config", None) is not None


def _content(text: str) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    for position, piece in enumerate(text.split(data.IMAGE)):
        parts += [{"type": "image"}] if position else []
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts


def _check_image_tokens(prompt: Prompt, merge: int) -> None:
    assert prompt.image_grid_thw is not None
    expected = int((prompt.image_grid_thw.prod(-1) // merge**2).sum())
    found = prompt.input_ids.count(prompt.image_token if prompt.image_token is not None else -1)
    if found != expected:
        raise ValueError(
            f"The prompt has {found} image tokens for {expected} merged patches. The template is not this model's."
        )


def _inputs(
    prompts: Sequence[Prompt], rows: Sequence[Sequence[int]], pad: int, device: str | torch.device, *, left: bool
) -> dict[str, Tensor]:
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad)
    attention = torch.zeros_like(ids)
    kinds = torch.zeros((len(rows), length), dtype=torch.int32)
    for index, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        span = slice(length - len(row), length) if left else slice(0, len(row))
        ids[index, span] = torch.tensor(row)
        attention[index, span] = 1
        if prompt.image_token is not None:
            # The prompt's alone: a completion's image token would ask for an image that does not exist.
            begin = span.start
            kinds[index, begin : begin + len(prompt.input_ids)] = (
                torch.tensor(prompt.input_ids) == prompt.image_token
            ).int()
    inputs = {"input_ids": ids, "attention_mask": attention}
    pixels = [prompt.pixel_values for prompt in prompts if prompt.pixel_values is not None]
    grids = [prompt.image_grid_thw for prompt in prompts if prompt.image_grid_thw is not None]
    if pixels:
        inputs |= {
            "mm_token_type_ids": kinds,
            "pixel_values": torch.cat(pixels),
            "image_grid_thw": torch.cat(grids),
        }
    return {name: value.to(device) for name, value in inputs.items()}
