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
    keep_special_tokens: bool = False
    """Leave special tokens in the text that rewards read: Qwen2-VL writes boxes between ``<|box_start|>`` and
    ``<|box_end|>``, which grounding and counting need."""
    batch: int = Field(128, ge=1)
    """Rows decoded together; of vLLM the most sequences at a time."""
    timeout_s: float = Field(3600, gt=0)
    """Longest time the sampling of one step may take."""
    gpu_memory_utilization: float = Field(0.5, gt=0, lt=1)
    """vLLM: share of a GPU's memory it may take. What trains on the same GPU needs the rest."""
    kv_cache_gb: float = Field(1.0, gt=0)
    """vLLM on CPUs: memory of its key-value cache."""
    sleep: bool = False
    """vLLM on a GPU that trains too: give the memory back while the policy is updated."""


class Algorithm(Section):
    """Advantages and loss."""

    normalise: Literal["group", "batch", "none", "rloo"] = "group"
    """What a sample's advantage is divided by."""
    eps: float = Field(1e-4, gt=0)
    """Added to the standard deviation."""
    min_valid: int = Field(2, ge=2)
    """Fewest verdicts a group needs; with fewer it teaches nothing and is counted as rejected."""
    loss: Literal["ppo", "gspo", "cispo", "cispo_verl"] = "ppo"
    """``ppo`` clips each token's ratio; ``gspo`` each response's; ``cispo`` weighs tokens by their ratio, capped at
    ``cispo_cap`` (MiniMax, TRL); ``cispo_verl`` by their ratio within 1 - clip_low and 1 + clip_high (verl).
    GSPO's paper averages by ``seq_mean_token_mean``."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    """The ratio is not pushed below 1 - clip_low. GSPO's ratios lie closer to 1: its paper has 3e-4."""
    clip_high: float = Field(0.3, gt=0)
    """Nor above 1 + clip_high. GSPO's paper has 4e-4."""
    cispo_cap: float = Field(5.0, gt=0)
    """Largest weight of a token under ``cispo``."""
    dual_clip: float | None = Field(None, gt=1)
    """Ceiling of the loss for negative advantages, in units of the advantage. For ``ppo`` only."""
    kl_coefficient: float = Field(0.0, ge=0)
    """Weight of the KL to the start model. At 0 no reference model exists."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of that KL. As a loss k1's gradient has mean zero: it penalises nothing on average."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL goes: into every token's loss, or, summed over a response, off its reward."""
    aggregation: Literal["token_mean", "seq_mean_token_mean", "dr_grpo"] = "token_mean"
    """How token losses become one number; the choice can flip its sign."""
    epochs_per_batch: int = Field(1, ge=1)
    """Optimiser steps on each batch. At 1 the ratio is 1 and clipping is inactive."""
    entropy_coefficient: float = Field(0.0, ge=0)
    """Weight of the entropy, which is added to what is maximised."""
    importance: Literal["none", "token", "sequence_mask"] = "none"
    """Corrects for an engine whose probabilities are not the trainer's. ``token`` weighs each token's loss by
    trainer over engine, capped; ``sequence_mask`` a response's by the product of those, and leaves it out above it."""
    importance_cap: float | None = Field(None, gt=0)
    """That cap. None is 2 for ``token`` and 3 for ``sequence_mask``."""
    mask_overlong: bool = False
    """Responses that were cut off teach nothing: their tokens leave loss and denominators."""
    overlong_tokens: int | None = Field(None, ge=1)
    """Responses that come within so many tokens of max_new_tokens are penalised, linearly to -1 (DAPO)."""
    refills: int = Field(0, ge=0)
    """Dynamic sampling: while groups without spread leave a step short, draw further prompts, at most so many
    times. After that the step is made from what there is."""
    staleness: Literal[0, 1] = 0
    """1 samples the next step while this one is trained on, from weights one step old."""


class Lora(Section):
    """Low-rank adapters in place of full weights (peft)."""

    rank: int = Field(16, ge=1)
    """Of the adapters."""
    alpha: float = Field(32, gt=0)
    """Their scale, times 1/rank."""
    targets: list[str] = Field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"], min_length=1)
    """Names of the layers of the language model that get one."""


class Policy(Section):
    """The model being trained and its optimiser."""

    backend: Literal["torch", "fsdp2", "deepspeed"] = "torch"
    """``torch`` holds the whole model in one process; the others spread it over ``ranks``."""
    ranks: int | None = Field(None, ge=1)
    """Processes that train. None is one for each GPU of the role, or one without GPUs."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed: what is spread; 1 the optimiser, 2 gradients too, 3 weights too."""
    offload: bool = False
    """DeepSpeed: keep the optimiser, and at stage 3 the weights, in the memory of the CPU."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass. Master weights and optimiser are float32."""
    attention: Literal["auto", "sdpa", "flash_attention_2"] = "auto"
    """``auto`` is flash-attn where it is installed and the policy is on a GPU in bfloat16, else sdpa."""
    train_vision: bool = True
    """False leaves the vision tower as it is."""
    lora: Lora | None = None
    """Train adapters only; all weights without."""
    learning_rate: float = Field(1e-6, gt=0)
    """AdamW, betas 0.9 and 0.999."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's, decoupled."""
    warmup_ratio: float = Field(0.0, ge=0, le=1)
    """Share of all steps over which the rate grows from lr/n to lr."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate falls after that, towards 0 behind the last step. It depends on how many steps are planned."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm; a step whose norm is not finite is skipped."""
    max_skipped: int = Field(3, ge=1)
    """So many skipped steps in a row end the run."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    micro_batch: int = Field(8, ge=1)
    """Rows of one forward pass. Changes memory and speed, never the gradient."""
    micro_batch_tokens: int | None = Field(None, ge=1)
    """Tokens of one forward pass, prompt and padding included, in place of ``micro_batch``."""
    packing: bool = False
    """Put the rows of a forward pass one behind the other, without padding."""
    logprob_chunk: int | None = Field(None, ge=1)
    """Completion tokens whose logits exist at a time; None is all. Saves memory where the vocabulary is large."""
    timeout_s: float = Field(3600, gt=0)
    """Longest time one optimiser step may take."""
    logprob_tolerance: float | None = Field(None, gt=0)
    """Largest mean difference between the engine's and the trainer's log-probabilities before the run
    stops: it means that weights were not synchronised. None is 1e-3 in float32, 0.05 in bfloat16."""


class Wandb(Section):
    """Metrics to Weights & Biases as well; never in the way of training."""

    project: str
    """Its project."""
    mode: Literal["online", "offline"] = "online"
    """``offline`` writes below the run's folder, for ``wandb sync``."""


class Checkpoint(Section):
    """When to save and what to keep."""

    every_steps: int = Field(10, ge=1)
    """Save after every so many steps, and after the last."""
    keep_last: int = Field(2, ge=1)
    """Keep the newest so many; pruned only after a newer one is committed."""
    keep_every: int | None = Field(None, ge=1)
    """Keep each checkpoint whose step is a multiple of this for ever."""
    asynchronous: bool = True
    """Train on while a checkpoint is written from a copy in memory. False waits, and needs no memory for it."""


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
    journal: bool = True
    """Keep every step's responses and verdicts until a checkpoint has the step: a killed run then repeats its
    optimiser steps only, and generates and judges nothing again."""
    wandb: Wandb | None = None
    """Metrics to Weights & Biases."""
    log_rollouts: bool = True
    """Write every response with its rewards to rollouts.jsonl, and each image once to images/."""

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        algorithm = self.algorithm
        if not self.rewards.parts():
            raise ValueError("rewards: no reward is named, so there is nothing to learn from. Name at least one.")
        special = self.rewards.reads_special_tokens()
        if special and not self.engine.keep_special_tokens:
            raise ValueError(
                f"engine.keep_special_tokens: rewards.{special} looks for tokens such as <|box_start|>, which are left "
                "out of the text. Set it to true."
            )
        if algorithm.staleness and algorithm.refills:
            raise ValueError(
                "algorithm.staleness: 1 begins a step before the one ahead is complete, and algorithm.refills decides "
                "by that one where the next begins. Set one of them to 0."
            )
        if algorithm.staleness and not self.journal:
            raise ValueError("algorithm.staleness: 1 cannot be resumed exactly without a journal. Leave journal: true.")
        if algorithm.dual_clip is not None and algorithm.loss != "ppo":
            raise ValueError(f"algorithm.dual_clip: belongs to loss: ppo, not to {algorithm.loss}. Leave it out.")
        if self.policy.ranks not in (None, 1) and not self.ray:
            raise ValueError(f"policy.ranks: {self.policy.ranks} processes need Ray. Leave ray: true, or set ranks: 1.")
        return self


def services(settings: Settings) -> dict[str, str]:
    """Return the roles that training asks, by the place of their name."""
    return settings.rewards.services("rewards")


def missing(settings: Settings) -> list[str]:
    """Return what this installation lacks to run these settings, one sentence each."""
    found = absent("data.path", settings.data.source, settings.data.path)
    needed = {
        "ray": ("ray", settings.ray, "or set ray: false"),
        "engine.name": ("vllm", settings.engine.name == "vllm", "or use 'hf'"),
        "policy.backend": ("deepspeed", settings.policy.backend == "deepspeed", "or use 'fsdp2' or 'torch'"),
        "policy.lora": ("peft", settings.policy.lora is not None, "or leave lora out"),
        "policy.attention": ("flash_attn", settings.policy.attention == "flash_attention_2", "or use 'auto'"),
    }
    for place, (package, wanted, otherwise) in needed.items():
        if wanted and importlib.util.find_spec(package) is None:
            extra = "[flash]" if package == "flash_attn" else "[cpu] or [gpu]"
            found.append(f"{place}: the package {package} is not installed. Install orchestrator{extra}, {otherwise}.")
    return found
