"""What both trainers are told: one file, read by either environment."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt.

    Attributes:
        id: The example's.
        text: What the user says, with one ``<image>``.
        image: The image's file.
    """

    id: str
    text: str
    image: str


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The work: weights, prompts in the order of their use, sizes, optimiser.

    Attributes:
        model: Hugging Face folder.
        prompts: One after the other, as the steps use them.
        prompts_per_step: Groups of one step.
        samples_per_prompt: Responses of one group.
        max_new_tokens: Longest response.
        steps: Optimiser steps.
        learning_rate: AdamW's, constant.
        micro_batch: Rows of one forward pass of the update.
        end: The token that ends a response.
        dtype: Of the forward pass, ``float32`` or ``bfloat16``.
        gradient_checkpointing: Recompute activations.
        judge: Address of the judge; None for a reward without one.
        dump: File for what the first step was made from, and its gradients; None for none.
    """

    model: str
    prompts: tuple[Prompt, ...]
    prompts_per_step: int
    samples_per_prompt: int
    max_new_tokens: int
    steps: int
    learning_rate: float
    micro_batch: int
    end: int
    dtype: str = "float32"
    gradient_checkpointing: bool = False
    judge: str | None = None
    dump: str | None = None

    @property
    def rows(self) -> int:
        """Responses of one step."""
        return self.prompts_per_step * self.samples_per_prompt

    def write(self, path: Path) -> Path:
        """Write the file."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path


def read(path: Path) -> Problem:
    """Return what ``Problem.write`` has written."""
    content = json.loads(path.read_text(encoding="utf-8"))
    prompts = tuple(Prompt(**prompt) for prompt in content.pop("prompts"))
    return Problem(prompts=prompts, **content)
