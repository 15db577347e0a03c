"""Which settings decide what a step computes: a resume under others would be another run."""

from __future__ import annotations

import hashlib
from typing import Any

from jobs.grpo.settings import Settings


def settings_sha256(settings: Settings) -> str:
    """Return a digest of all settings that decide what a step computes.

    Left out is what may differ between two attempts at the same run: when to save and log, where
    the models of earlier roles lie, how long to wait, over how many processes, and the length of training.
    """
    # With staleness 1 a checkpoint decides which weights sample the step behind it.
    saving: Any = {"keep_last", "keep_every", "asynchronous"} if settings.algorithm.staleness else True
    text = settings.model_dump_json(
        exclude={
            "model": True,
            "steps": True,
            "epochs": True,
            "checkpoint": saving,
            "journal": True,
            "wandb": True,
            "log_rollouts": True,
            "ray": True,
            "ray_start_timeout_s": True,
            "data": {"path"},
            "engine": {"timeout_s", "gpu_memory_utilization", "kv_cache_gb", "sleep"},
            "policy": {"timeout_s", "backend", "ranks", "zero_stage", "offload", "max_skipped", "attention"},
        }
    )
    return hashlib.sha256(text.encode()).hexdigest()
