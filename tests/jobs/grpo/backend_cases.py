"""The same steps with every backend: run as ``python -m tests.jobs.grpo.backend_cases FOLDER RANK WORLD NAME...``.

FOLDER holds the start model as ``policy``; several ranks meet there. A case leaves ``NAME-WORLD/`` with the metrics of
its steps, the weights after them, a checkpoint of the step before the last, and what a policy resumed from that does.
Of two ranks, some go on from what one rank has saved.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from jobs.grpo.policy import Policy
from jobs.grpo.rollout import TrainingRow
from jobs.grpo.settings import Settings
from tests.jobs.grpo import scored

BACKENDS: dict[str, dict[str, Any]] = {
    "torch": {"backend": "torch"},
    "fsdp2": {"backend": "fsdp2"},
    "zero1": {"backend": "deepspeed", "zero_stage": 1},
    "zero2": {"backend": "deepspeed", "zero_stage": 2},
    "zero3": {"backend": "deepspeed", "zero_stage": 3},
}
MIXED = ((0,), (), (1, 2), (3,), (), (2,), (0, 1), ())
TEXT: tuple[tuple[int, ...], ...] = ((), (), (), (), ())
VARIANTS: dict[str, dict[str, Any]] = {
    "whole": {"micro_batch": 8},
    "halves": {"micro_batch": 4},
    "quarters": {"micro_batch": 2},
    "kl": {"micro_batch": 4, "kl_coefficient": 0.1, "entropy_coefficient": 0.01, "epochs_per_batch": 2},
    "blind": {"micro_batch": 4, "train_vision": False},
    "lora": {"micro_batch": 4, "lora": {"rank": 4}, "kl_coefficient": 0.1},
    "checkpointing": {"micro_batch": 4, "gradient_checkpointing": True},
    "offload": {"micro_batch": 2, "offload": True},
    "bfloat16": {"micro_batch": 4, "dtype": "bfloat16"},
}
CROSSED = ("fsdp2-quarters", "zero3-quarters")
STEPS = 3
LEARNING_RATE = 1e-3
WAIT_S = 600
ALGORITHM = ("kl_coefficient", "entropy_coefficient", "epochs_per_batch")


def settings(folder: Path, backend: str, variant: str) -> Settings:
    chosen = BACKENDS[backend] | VARIANTS[variant]
    algorithm = {key: chosen.pop(key) for key in ALGORITHM if key in chosen}
    return Settings.model_validate(
        {
            "model": str(folder / "policy"),
            "data": {"path": "unused"},
            "rewards": {"format": 1.0},
            "engine": {"max_new_tokens": 12},
            "algorithm": algorithm,
            "policy": {"weight_decay": 0.1, "logprob_tolerance": 100, **chosen},
        }
    )


def batch(step: int) -> list[TrainingRow]:
    """Return rows with and without images; in the last step none has one, so the vision tower has no gradient."""
    made = scored.rows(TEXT if step == STEPS - 1 else MIXED, seed=step + 1)
    return [replace(row, advantage=1.0 if index % 2 else -0.5) for index, row in enumerate(made)]


def train(policy: Policy, first: int, last: int) -> list[dict[str, float]]:
    return [policy.step(batch(step), LEARNING_RATE) for step in range(first, last)]


def run(folder: Path, backend: str, variant: str, rank: int, world: int) -> None:
    told = settings(folder, backend, variant)
    out = folder / f"{backend}-{variant}-{world}"
    out.mkdir(exist_ok=True)
    began = time.monotonic()
    policy = Policy(told, told.model, rank=rank, world=world)
    metrics = train(policy, 0, 1)
    poisoned = policy.step([replace(row, advantage=math.nan) if row.images else row for row in batch(1)], LEARNING_RATE)
    metrics += train(policy, 1, STEPS - 1)
    policy.snapshot()
    digests = policy.write(out / "checkpoint")
    metrics += train(policy, STEPS - 1, STEPS)
    (out / f"digests-{rank}.json").write_text(json.dumps(digests))
    scores = policy.logprobs(batch(0))
    _leave(out, policy, rank, {"metrics": metrics, "poisoned": poisoned, "logprobs": scores})
    if world > 1:
        torch.distributed.barrier()
    resumed = Policy(told, told.model, rank=rank, world=world)
    resumed.load(out / "checkpoint")
    again = train(resumed, STEPS - 1, STEPS)
    _leave(out / "resumed", resumed, rank, {"metrics": again, "version": resumed.version})
    print(f"{backend} {variant} {world}: {time.monotonic() - began:.1f} s", flush=True)


def cross(folder: Path, name: str, rank: int, world: int) -> None:
    """Take the last step from what one rank has saved."""
    until = time.monotonic() + WAIT_S
    while not (folder / f"{name}-1" / "facts.json").exists():
        assert time.monotonic() < until, f"{name} on one rank within {WAIT_S} s"
        time.sleep(0.2)
    told = settings(folder, *name.split("-"))
    policy = Policy(told, told.model, rank=rank, world=world)
    policy.load(folder / f"{name}-1" / "checkpoint")
    _leave(folder / f"{name}-{world}" / "crossed", policy, rank, {"metrics": train(policy, STEPS - 1, STEPS)})


def _leave(out: Path, policy: Policy, rank: int, facts: dict[str, Any]) -> None:
    weights = policy.weights()
    if rank == 0:
        out.mkdir(exist_ok=True)
        (out / "facts.json").write_text(json.dumps(facts))
        # A copy each: tied weights share theirs.
        save_file({name: value.clone() for name, value in weights.items()}, out / "weights.safetensors")


def main() -> None:
    folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if world > 1:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/meet-{world}",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=60),
        )
    for name in sys.argv[4:]:
        backend, _, variant = name.partition("-")
        run(folder, backend, variant, rank, world)
    for name in CROSSED if world > 1 else ():
        cross(folder, name, rank, world)


if __name__ == "__main__":
    main()
