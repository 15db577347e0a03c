"""TRL's GRPOTrainer on a problem: ``python -m bench.trl.peer PROBLEM.json RESULT.json``, in TRL's environment.

Everything that costs time and that ours does not do is off: gradient checkpointing (TRL's default is on), reports,
saving. What the trainer does for a step is TRL's own; only clocks are added.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.trl import problem as problems
from bench.trl import reward
from bench.trl.problem import Problem
from jobs import torchvision_cpu

torchvision_cpu.repair()

from datasets import Dataset, Features, Image, List, Value  # noqa: E402  # after the repair, as all below
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

IMAGE = "<image>"


class Timed(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer, which also notes how long sampling and rewards take, and what they gave."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.times: list[dict[str, float]] = []
        self.batch: dict[str, Any] = {}

    def _generate(self, prompts: list[Any]) -> Any:
        began = time.perf_counter()
        found = super()._generate(prompts)
        lengths = [len(ids) for ids in found[1]]
        self.times.append({"generate_s": time.perf_counter() - began, "tokens": float(sum(lengths))})
        self.batch |= {"prompt_ids": found[0], "completion_ids": found[1]}
        return found

    def _calculate_rewards(self, inputs: list[Any], *others: Any) -> Any:
        began = time.perf_counter()
        rewards = super()._calculate_rewards(inputs, *others)
        self.times[-1]["reward_s"] = time.perf_counter() - began
        self.batch |= {"ids": [each["id"] for each in inputs], "rewards": rewards[:, 0].tolist()}
        return rewards


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when every step has ended, and the first step's gradients if they are asked for."""

    def __init__(self, dump: str | None) -> None:
        self.ended: list[float] = []
        self._dump = dump
        self.gradients: dict[str, torch.Tensor] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.ended.append(time.perf_counter())

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        if self._dump and not self.gradients:
            self.gradients = {
                name: parameter.grad.detach().clone()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended.append(time.perf_counter())


def train(given: Problem, folder: Path) -> dict[str, Any]:
    """Make the problem's steps and return the times of each."""
    processor = AutoProcessor.from_pretrained(given.model)
    model = AutoModelForImageTextToText.from_pretrained(given.model, dtype=torch.float32)
    clock = Clock(given.dump)
    trainer = Timed(
        model=model,
        processing_class=processor,
        reward_funcs=[_reward(given)],
        args=_settings(given, folder),
        train_dataset=_prompts(given),
        callbacks=[clock],
    )
    # The folder names a second token that ends a response; ours knows one.
    trainer.eos_token_ids = [given.end]
    trainer.train()
    if given.dump:
        torch.save({"batch": trainer.batch, "gradients": clock.gradients}, given.dump)
    took = [after - before for before, after in itertools.pairwise(clock.ended)]
    return {"steps": [{"step_s": step_s} | times for step_s, times in zip(took, trainer.times, strict=True)]}


def _settings(given: Problem, folder: Path) -> GRPOConfig:
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=given.steps,
        per_device_train_batch_size=given.micro_batch,
        gradient_accumulation_steps=given.rows // given.micro_batch,
        num_generations=given.samples_per_prompt,
        max_completion_length=given.max_new_tokens,
        generation_kwargs={"eos_token_id": [given.end]},
        temperature=1.0,
        top_k=0,
        learning_rate=given.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=0.0 if given.dump else 1.0,
        beta=0.0,
        loss_type="dapo",
        scale_rewards="group",
        epsilon=0.2,
        epsilon_high=0.3,
        shuffle_dataset=False,
        bf16=given.dtype == "bfloat16",
        gradient_checkpointing=given.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        seed=1,
    )


def _prompts(given: Problem) -> Dataset:
    rows = [
        {
            "id": each.id,
            "prompt": [{"role": "user", "content": each.text.replace(IMAGE, "")}],
            "images": [each.image],
        }
        for each in given.prompts
    ]
    message = {"role": Value("string"), "content": Value("string")}
    features = Features({"id": Value("string"), "prompt": List(message), "images": List(Image())})
    return Dataset.from_list(rows, features=features)


def _reward(given: Problem) -> Any:
    if given.judge is None:
        return _given
    judge = given.judge

    async def judged(completions: list[Any], **_: Any) -> list[float]:
        return await reward.judged_at_once(judge, [_text(each) for each in completions])

    return judged


def _given(completions: list[Any], **_: Any) -> list[float]:
    return [reward.score(_text(each)) for each in completions]


def _text(completion: Any) -> str:
    text: str = completion[0]["content"]
    return text


def main() -> int:
    """Read the problem, train, write the result."""
    given = problems.read(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        found = train(given, Path(folder))
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
