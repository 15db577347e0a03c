"""Rows to score and models that score them, made by hand: lengths, images and their sizes all differ."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from jobs import vlm
from jobs.grpo.forward import Batch, Batches, ScoringModel
from jobs.grpo.rollout import TrainingRow
from jobs.grpo.settings import Settings

TEMPERATURE = 0.7
SIZES = ((112, 112), (84, 168), (56, 56), (140, 84))
WORDS = ("How many?", "How many red circles and blue squares are there?", "Count.", "Think, then answer.")
LENGTHS = (5, 1, 9, 7)


def settings(**policy: Any) -> Settings:
    return Settings.model_validate(
        {
            "model": "unused",
            "data": {"path": "unused"},
            "rewards": {"format": 1.0},
            "engine": {"temperature": TEMPERATURE},
            "policy": policy,
        }
    )


def picture(number: int) -> bytes:
    width, height = SIZES[number]
    image = Image.new("RGB", (width, height), (40 * number, 90, 200))
    ImageDraw.Draw(image).ellipse((5, 5, width // 2, height // 2), fill=(250, 30 * number, 0))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def rows(images: tuple[tuple[int, ...], ...], *, seed: int = 1) -> list[TrainingRow]:
    """Return one row for each tuple, which holds the numbers of its images."""
    generator = torch.Generator().manual_seed(seed)
    return [
        TrainingRow(
            example=f"{seed}-{index}",
            text="<image>" * len(shown) + WORDS[index % len(WORDS)],
            images=tuple(picture(number) for number in shown),
            tokens=tuple(torch.randint(10, 60, (LENGTHS[index % len(LENGTHS)],), generator=generator).tolist()),
            logprobs=(),
            advantage=1.0,
        )
        for index, shown in enumerate(images)
    ]


@functools.cache
def processor(folder: Path) -> Any:
    return vlm.load_processor(folder)


@functools.cache
def scoring(folder: Path, *, chunk: int | None = None) -> ScoringModel:
    """Return the folder's model, the same object each time; see ``gradients``."""
    model = vlm.load_model(folder)
    return ScoringModel(model, banned=vlm.banned_ids(processor(folder)), temperature=TEMPERATURE, chunk=chunk)


def batch(folder: Path, given: list[TrainingRow], **policy: Any) -> Batch:
    return Batches(processor(folder), settings(**policy)).tensors(given, "cpu")


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the gradients by parameter, and forget them."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def weighted(values_NT: torch.Tensor) -> torch.Tensor:
    """Return a sum in which every entry has a weight of its own, so that no two may be swapped."""
    return (values_NT * torch.linspace(0.5, 1.5, values_NT.numel()).view_as(values_NT)).sum()
