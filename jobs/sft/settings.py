"""What a fine-tuning role may be told. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from orchestrator.section import Section


class Settings(Section):
    """Supervised fine-tuning: the role that teaches a model to answer as the examples do."""

    model: str = Field(min_length=1)
    """Hugging Face folder or name of the start model: Qwen2.5-VL, or a text-only model with a chat template."""
    path: str = Field(min_length=1)
    """The examples, a ``.parquet`` or ``.jsonl`` file; see ``jobs/sft/conversations.py``."""
    format_prompt: str = ""
    """Appended to every ``problem`` after a space. Training and evaluation must use the same."""
    steps: int = Field(100, ge=1)
    """Optimiser steps. The examples are repeated, reshuffled, as often as that takes."""
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

    @model_validator(mode="after")
    def _micro_batches_are_whole(self) -> Settings:
        if self.batch % self.micro_batch and self.micro_batch < self.batch:
            raise ValueError(
                f"micro_batch={self.micro_batch} does not divide batch={self.batch}. Set it to a divisor of batch."
            )
        return self
