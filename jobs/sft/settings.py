"""What a fine-tuning role may be told. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from jobs.data.settings import Options, absent
from jobs.grpo.settings import Checkpoint, Policy
from orchestrator.section import Section

IN_POLICY = (
    "micro_batch",
    "learning_rate",
    "beta2",
    "schedule",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "dtype",
    "gradient_checkpointing",
)
"""Said by ``policy`` where there is one."""


class Settings(Section):
    """Supervised fine-tuning: the role that teaches a model to answer as the examples do."""

    model: str = Field(min_length=1)
    """Hugging Face folder or name of the start model: Qwen2.5-VL, or a text-only model with a chat template."""
    path: str = Field(min_length=1)
    """The examples, a ``.parquet`` or ``.jsonl`` file; see ``jobs/sft/conversations.py``."""
    source: str | None = None
    """Read the path as a source of ``jobs.data`` instead, such as ``llama_factory`` or ``coco``."""
    options: Options = Options()
    """How that source is read."""
    response: str = Field("{answer}", min_length=1)
    """What a source's example is to be answered with; ``{answer}`` stands for its answer."""
    format_prompt: str = ""
    """Appended to every ``problem`` after a space. Training and evaluation must use the same."""
    steps: int = Field(100, ge=1)
    """Optimiser steps. The examples are repeated, reshuffled, as often as that takes."""
    epochs: int | None = Field(None, ge=1)
    """Passes over the examples, in place of ``steps``; the last step of all takes what it lacks from the next pass."""
    batch: int = Field(16, ge=1)
    """Examples in one step."""
    micro_batch: int = Field(16, ge=1)
    """Examples in one forward pass. Changes memory and speed, never the gradient."""
    learning_rate: float = Field(1e-5, gt=0)
    """The highest rate of AdamW."""
    beta2: float = Field(0.999, gt=0, lt=1)
    """AdamW's memory of squared gradients; beta1 is 0.9. Short trainings of small models learn faster with 0.95."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls, towards 0, after the warm-up."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the rate grows from lr/n to lr."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's, decoupled."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    prompt_weight: float = Field(0.0, ge=0)
    """How much a text prompt's own tokens teach. 0: only replies do. A model that starts from nothing learns
    from prompts how to look words up. Prompts with images never teach."""
    max_tokens: int = Field(4096, ge=2)
    """A longer example is an error before training: cutting one could cut through an image."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass. Master weights and optimiser are float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    seed: int = 1
    """Fixes the order of the examples."""
    log_every: int = Field(10, ge=1)
    """Steps between two lines of ``sft.jsonl``."""
    policy: Policy | None = None
    """How a real model is trained: backend, ranks, LoRA, packing, as the ``policy`` of ``grpo``. With it the training
    saves and resumes, and rate, precision and micro-batches are its. Without: one process, which starts anew."""
    checkpoint: Checkpoint = Checkpoint(every_steps=100)
    """With ``policy``: when to save and what to keep."""
    ray: bool = True
    """With ``policy``: its ranks as Ray actors. False keeps all in one process."""
    ray_start_timeout_s: float = Field(120, gt=0)
    """Longest wait until Ray runs on all nodes of the role."""

    @model_validator(mode="after")
    def _said_once(self) -> Settings:
        twice = [name for name in IN_POLICY if name in self.model_fields_set] if self.policy else []
        if twice:
            raise ValueError(f"{', '.join(twice)}: with 'policy' this is said there. Move it.")
        if self.policy and self.prompt_weight:
            raise ValueError("prompt_weight: with 'policy' only replies teach. Leave one of them out.")
        if self.policy and self.policy.ranks not in (None, 1) and not self.ray:
            raise ValueError(f"policy.ranks: {self.policy.ranks} processes need Ray. Leave ray: true, or set ranks: 1.")
        return self

    @model_validator(mode="after")
    def _micro_batches_are_whole(self) -> Settings:
        if self.batch % self.micro_batch and self.micro_batch < self.batch:
            raise ValueError(
                f"micro_batch={self.micro_batch} does not divide batch={self.batch}. Set it to a divisor of batch."
            )
        return self


def steps(settings: Settings, examples: int) -> int:
    """Return how many optimiser steps are planned."""
    if settings.epochs is None:
        return settings.steps
    return -(-settings.epochs * examples // settings.batch)


def missing(settings: Settings) -> list[str]:
    """Return a sentence if the examples are not there."""
    return absent("path", settings.source or "", settings.path)
