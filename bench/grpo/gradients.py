"""Whether a gradient is TRL's: the same weights, the very tokens that TRL sampled, the same rewards.

TRL makes a step of its own, by its trainer from prompts to backward, and writes down what it was made from and every
parameter's gradient. Our policy makes a step of the same responses; its gradient is read from AdamW's first moment,
which after one step is the gradient times 0.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.figures import Figure
from bench.grpo import peer
from bench.grpo.work import FORMAT_PROMPT, Work
from jobs import data, vlm
from jobs.data.geo3k import load
from jobs.grpo import algo
from jobs.grpo.policy import Policy
from jobs.grpo.rollout import TrainingRow
from jobs.grpo.settings import Settings

WHAT = "largest difference of a gradient from TRL's, over the parameter's largest"
GOAL = 1e-5
BETA1 = 0.9
UNCLIPPED = 1e9
FIRST_MOMENT = "exp_avg/"
SMALL = 1e-4
"""Parameters whose largest gradient is so small beside the largest of all are compared with that share of it."""


def measure(work: Work, python: Path | None) -> list[Figure]:
    """Return how far our gradients are from TRL's, for several ways to compute them."""
    if python is None:
        return [Figure(what=WHAT, who="ours", note="TRL is not installed")]
    dump = work.folder / "gradients.pt"
    peer.run(python, work.problem(1, dump=dump), work.folder)
    found = torch.load(dump, weights_only=True)
    rows = _rows(work, found["batch"])
    ways: dict[str, dict[str, Any]] = {
        f"{parts} micro-batch{'es' if parts > 1 else ''}": {"micro_batch": len(rows) // parts} for parts in (1, 2, 4)
    }
    ways["packed"] = {"micro_batch": len(rows), "packing": True}
    ways["packed, logits in chunks"] = {"micro_batch": len(rows), "packing": True, "logprob_chunk": 64}
    return [
        Figure(
            what=WHAT,
            who=f"ours, {way}",
            values=[difference(_gradients(work, rows, policy), found["gradients"])],
            goal=GOAL,
            note="float32",
        )
        for way, policy in ways.items()
    ]


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Return the largest difference of any number, as a share of the largest number of its parameter.

    Raises:
        KeyError: We have no gradient for a parameter of theirs.
    """
    largest = max(float(value.abs().max()) for value in theirs.values())
    return max(
        float((ours[name] - value).abs().max()) / max(float(value.abs().max()), SMALL * largest)
        for name, value in theirs.items()
    )


def _rows(work: Work, batch: dict[str, Any]) -> list[TrainingRow]:
    """Return TRL's responses as rows, their advantages computed by us from TRL's rewards."""
    examples = {example.id: example for example in load(work.data)}
    processor = vlm.load_processor(work.model)
    advantages = algo.advantages(torch.tensor(batch["rewards"], dtype=torch.float64), batch["ids"]).tolist()
    rows = []
    for name, prompt_ids, tokens, advantage in zip(
        batch["ids"], batch["prompt_ids"], batch["completion_ids"], advantages, strict=True
    ):
        example = examples[name]
        text = data.prompt(example, FORMAT_PROMPT)
        if vlm.encode(processor, text, example.images).input_ids != list(prompt_ids):
            raise ValueError(f"The prompt of {name} has other tokens in TRL than in ours.")
        rows.append(
            TrainingRow(
                example=name,
                text=text,
                images=example.images,
                tokens=tuple(tokens),
                logprobs=(0.0,) * len(tokens),
                advantage=advantage,
            )
        )
    return rows


def _gradients(work: Work, rows: Sequence[TrainingRow], changes: dict[str, Any]) -> dict[str, Tensor]:
    """Return the gradient of one step by parameter, as our policy computes it."""
    settings = Settings.model_validate(
        {
            "model": str(work.model),
            "data": {"path": str(work.data)},
            "rewards": {"repetition": 1.0},
            "engine": {"max_new_tokens": work.size.tokens},
            "policy": {"max_grad_norm": UNCLIPPED, **changes},
        }
    )
    policy = Policy(settings, str(work.model))
    sampled = [replace(row, logprobs=logprobs) for row, logprobs in zip(rows, policy.logprobs(rows), strict=True)]
    policy.step(sampled, learning_rate=1e-6)
    policy.snapshot()
    with TemporaryDirectory(dir=work.folder) as folder:
        policy.write(Path(folder))
        return dict(_first_moments(Path(folder)))


def _first_moments(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in (folder / "optimizer").glob("*.safetensors"):
        for name, moment in load_file(file).items():
            if name.startswith(FIRST_MOMENT):
                yield name.removeprefix(FIRST_MOMENT), moment / (1 - BETA1)
