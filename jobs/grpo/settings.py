"""What a GRPO role may be told. Light: read by ``jobs.check`` before anything is submitted."""

from __future__ import annotations

import importlib.util
from typing import Literal

from pydantic import Field, model_validator

from jobs.data import FORMAT_PROMPT
from jobs.data.settings import Data, absent
from jobs.rewards.settings import Rewards
from orchestrator.section import Section


class Engine(Section):
    """How responses are sampled."""

    name: Literal["hf", "vllm"] = "hf"
    """``hf`` is transformers' generate, one process; ``vllm`` serves many GPUs."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature; the trainer's log-probabilities use the same."""
    max_new_tokens: int = Field(1024, ge=1)
    """A response that has not ended by then is cut off."""
    batch: int = Field(128, ge=1)
    """Rows decoded together."""
    timeout_s: float = Field(3600, gt=0)
    """Longest time the sampling of one step may take."""


class Algorithm(Section):
    """Advantages and loss."""

    normalise: Literal["group", "batch", "none", "rloo"] = "group"
    """What a sample's advantage is divided by."""
    eps: float = Field(1e-4, gt=0)
    """Added to the standard deviation."""
    min_valid: int = Field(2, ge=2)
    """Fewest verdicts a group needs; with fewer it teaches nothing and is counted as rejected."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    """The ratio is not pushed below 1 - clip_low."""
    clip_high: float = Field(0.3, gt=0)
    """Nor above 1 + clip_high."""
    dual_clip: float | None = Field(None, gt=1)
    """Ceiling of the loss for negative advantages, in units of the advantage."""
    kl_coefficient: float = Field(0.0, ge=0)
    """Weight of the KL to the start model. At 0 no reference model exists."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of that KL."""
    aggregation: Literal["token_mean", "seq_mean_token_mean", "dr_grpo"] = "token_mean"
    """How token losses become one number; the choice can flip its sign."""
    epochs_per_batch: int = Field(1, ge=1)
    """Optimiser steps on each batch. At 1 the ratio is 1 and clipping is inactive."""


class Policy(Section):
    """The model being trained and its optimiser."""

    backend: Literal["torch", "fsdp2", "deepspeed"] = "torch"
    """``torch`` holds the whole model in one process."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass. Master weights and optimiser are float32."""
    learning_rate: float = Field(1e-6, gt=0)
    """AdamW, betas 0.9 and 0.999."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's, decoupled."""
    warmup_ratio: float = Field(0.0, ge=0, le=1)
    """Share of all steps over which the rate grows from lr/n to lr; it is constant afterwards."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm; a step whose norm is not finite is skipped."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    micro_batch: int = Field(8, ge=1)
    """Rows of one forward pass. Changes memory and speed, never the gradient."""
    timeout_s: float = Field(3600, gt=0)
    """Longest time one optimiser step may take."""
    logprob_tolerance: float | None = Field(None, gt=0)
    """Largest mean difference between the engine's and the trainer's log-probabilities before the run
    stops: it means that weights were not synchronised. None is 1e-3 in float32, 0.05 in bfloat16."""


class Checkpoint(Section):
    """When to save and what to keep."""

    every_steps: int = Field(10, ge=1)
    """Save after every so many steps, and after the last."""
    keep_last: int = Field(2, ge=1)
    """Keep the newest so many; pruned only after a newer one is committed."""
    keep_every: int | None = Field(None, ge=1)
    """Keep each checkpoint whose step is a multiple of this for ever."""


class Settings(Section):
    """GRPO: the role that trains the policy."""

    model: str
    """Hugging Face folder or name of the start model."""
    seed: int = 1
    """Fixes data order and every sampled token."""
    data: Data
    """Training prompts."""
    format_prompt: str = FORMAT_PROMPT
    """Appended to every problem after a space."""
    rewards: Rewards
    """Reward parts and their weights."""
    epochs: int = Field(1, ge=1)
    """Passes over the data; a last incomplete batch of an epoch is dropped."""
    steps: int | None = Field(None, ge=1)
    """Stop after so many steps instead, running as many epochs as that takes."""
    prompts_per_step: int = Field(8, ge=1)
    """Groups in one step."""
    samples_per_prompt: int = Field(8, ge=2)
    """Responses in one group."""
    max_prompt_tokens: int = Field(4096, ge=1)
    """A longer prompt is an error and never cut, since a cut could go through an image."""
    engine: Engine = Engine()
    """Sampling."""
    algorithm: Algorithm = Algorithm()
    """Advantages and loss."""
    policy: Policy = Policy()
    """Model and optimiser."""
    checkpoint: Checkpoint = Checkpoint()
    """Saving."""
    ray: bool = True
    """Engine and policy as Ray actors. False keeps all in one process, for debugging."""
    ray_start_timeout_s: float = Field(120, gt=0)
    """Longest wait until Ray runs on all nodes of the role."""
    log_rollouts: bool = True
    """Write every response with its rewards to rollouts.jsonl, and each image once to images/."""

    @model_validator(mode="after")
    def _reward_has_weight(self) -> Settings:
        if not self.rewards.parts():
            raise ValueError("rewards: no reward is named, so there is nothing to learn from. Name at least one.")
        return self


def services(settings: Settings) -> dict[str, str]:
    """Return the roles that training asks, by the place of their name."""
    return settings.rewards.services("rewards")


def missing(settings: Settings) -> list[str]:
    """Return what this installation lacks to run these settings, one sentence each."""
    found = absent("data.path", settings.data.source, settings.data.path)
    if settings.engine.name == "vllm":
        found.append("engine.name: 'vllm' as a rollout engine is not in this release. Use 'hf'.")
    if settings.policy.backend != "torch":
        found.append(f"policy.backend: {settings.policy.backend!r} is not in this release. Use 'torch'.")
    if settings.ray and importlib.util.find_spec("ray") is None:
        found.append("ray: the package ray is not installed. Install orchestrator[cpu] or [gpu], or set ray: false.")
    return found
