"""One rank of the policy on a random tiny Qwen2.5-VL: steps, skipped steps, checkpoints."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jobs import vlm
from jobs.data import Example
from jobs.grpo.engines.hf import HfEngine
from jobs.grpo.policy import Policy, WeightsDiffer
from jobs.grpo.rollout import Request, TrainingRow
from jobs.grpo.settings import Settings
from orchestrator.errors import InputError, RunFailed

MAX_NEW_TOKENS = 12


def settings(folder: Path, algorithm: dict[str, Any] | None = None, **policy: Any) -> Settings:
    return Settings.model_validate(
        {
            "model": str(folder),
            "data": {"path": "unused"},
            "rewards": {"format": 1.0},
            "engine": {"max_new_tokens": MAX_NEW_TOKENS},
            "algorithm": algorithm or {},
            "policy": {"learning_rate": 1e-3, **policy},
        }
    )


def built(folder: Path, algorithm: dict[str, Any] | None = None, **policy: Any) -> Policy:
    return Policy(settings(folder, algorithm, **policy), str(folder))


@pytest.fixture(scope="module")
def batch(policy_folder: Path, examples: list[Example]) -> list[TrainingRow]:
    """Four responses to each of three prompts, as an engine with the start model samples them."""
    engine = HfEngine(
        str(policy_folder),
        dtype="float32",
        temperature=1.0,
        max_new_tokens=MAX_NEW_TOKENS,
        batch=12,
        max_prompt_tokens=512,
    )
    wanted = [
        Request(group=g, sample=s, example=e.id, text=e.problem, images=e.images, seed=100 * g + s)
        for g, e in enumerate(examples[:3])
        for s in range(4)
    ]
    return [
        TrainingRow(
            example=examples[sample.group].id,
            text=examples[sample.group].problem,
            images=examples[sample.group].images,
            tokens=sample.tokens,
            logprobs=sample.logprobs,
            advantage=1.0 if sample.sample % 2 else -1.0,
        )
        for sample in sorted(engine.generate(wanted), key=lambda sample: (sample.group, sample.sample))
    ]


def same(a: Policy, b: Policy) -> bool:
    one, other = a.weights(), b.weights()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_trainer_finds_the_engines_log_probabilities(policy_folder: Path, batch: list[TrainingRow]) -> None:
    metrics = built(policy_folder).step(batch, 1e-3)

    assert metrics["actor/engine_logprob_difference"] < 1e-4
    assert metrics["actor/pg_clipfrac"] == 0.0
    assert metrics["actor/grad_norm"] > 0


def test_a_forgotten_weight_sync_stops_the_run(policy_folder: Path, batch: list[TrainingRow]) -> None:
    policy = built(policy_folder)
    policy.step(batch, 1e-2)

    with pytest.raises(WeightsDiffer, match="differ by"):
        policy.step(batch, 1e-2)


def test_rows_that_are_known_to_be_stale_are_not_held_against_the_engine(
    policy_folder: Path, batch: list[TrainingRow]
) -> None:
    policy = built(policy_folder, {"staleness": 1})
    policy.step(batch, 1e-2)

    metrics = policy.step([replace(row, version=policy.version - 1) for row in batch], 1e-2)

    assert metrics["actor/engine_logprob_difference"] > 1e-3
    with pytest.raises(WeightsDiffer):
        policy.step([replace(row, version=policy.version) for row in batch], 1e-2)


def test_an_engine_is_told_what_its_weights_are_called(policy_folder: Path) -> None:
    policy = built(policy_folder)

    policy.weights(7)

    assert policy.version == 7


@pytest.mark.parametrize("micro_batch", [3, 4, 12])
def test_micro_batches_do_not_change_the_update(
    policy_folder: Path, batch: list[TrainingRow], micro_batch: int
) -> None:
    whole, parts = built(policy_folder, micro_batch=12), built(policy_folder, micro_batch=micro_batch)

    expected, got = whole.step(batch, 1e-3), parts.step(batch, 1e-3)

    assert got["actor/pg_loss"] == pytest.approx(expected["actor/pg_loss"], abs=1e-6)
    assert got["actor/grad_norm"] == pytest.approx(expected["actor/grad_norm"], rel=1e-4)


def test_rows_without_advantage_only_dilute(policy_folder: Path, batch: list[TrainingRow]) -> None:
    muted = [replace(row, advantage=0.0) for row in batch]
    alone, diluted = built(policy_folder), built(policy_folder)

    expected, got = alone.step(batch, 1e-3), diluted.step(batch + muted, 1e-3)

    assert got["actor/rows"] == 12
    assert got["actor/pg_loss"] == pytest.approx(expected["actor/pg_loss"] / 2, abs=1e-7)


def test_a_batch_that_teaches_nothing_leaves_the_policy_alone(policy_folder: Path, batch: list[TrainingRow]) -> None:
    policy, before = built(policy_folder), built(policy_folder)

    metrics = policy.step([replace(row, advantage=0.0) for row in batch], 1e-3)

    assert metrics["actor/skipped"] == 1.0
    assert policy.version == 1
    assert same(policy, before)


def test_in_a_second_epoch_the_ratio_is_to_the_first_epochs_policy(
    policy_folder: Path, batch: list[TrainingRow]
) -> None:
    once = built(policy_folder, {"epochs_per_batch": 1}, max_grad_norm=100.0)
    twice = built(policy_folder, {"epochs_per_batch": 2}, max_grad_norm=100.0)

    once.step(batch, 3e-3)
    metrics = twice.step(batch, 3e-3)

    assert metrics["actor/ppo_kl"] != 0.0
    assert metrics["actor/pg_clipfrac"] > 0.0
    assert not same(once, twice)


def test_log_probabilities_are_those_that_the_engine_reported(policy_folder: Path, batch: list[TrainingRow]) -> None:
    policy = built(policy_folder, micro_batch=5)

    found = policy.logprobs([batch[2], batch[0], batch[2], batch[7]])

    for row, values in zip([batch[2], batch[0], batch[2], batch[7]], found, strict=True):
        assert values == pytest.approx(row.logprobs, abs=1e-4)
    assert policy.logprobs([]) == []


def test_the_reference_stays_the_start_model(policy_folder: Path, batch: list[TrainingRow]) -> None:
    policy = built(policy_folder, {"kl_coefficient": 0.1, "kl_in": "reward"})
    start = policy.logprobs(batch)
    policy.step(batch, 1e-2)

    assert policy.logprobs(batch, reference=True) == start
    assert policy.logprobs(batch) != start


def test_without_its_adapters_a_policy_is_the_start_model(policy_folder: Path, batch: list[TrainingRow]) -> None:
    start = built(policy_folder).logprobs(batch)
    policy = built(policy_folder, {"kl_coefficient": 0.1}, lora={"rank": 4})
    policy.step(batch, 1e-2)

    assert policy.logprobs(batch, reference=True) == start
    assert policy.logprobs(batch) != start


def test_a_gradient_that_is_not_finite_is_skipped_and_its_rows_are_named(
    policy_folder: Path, batch: list[TrainingRow], capsys: pytest.CaptureFixture[str]
) -> None:
    policy, before = built(policy_folder, micro_batch=4), built(policy_folder)
    poisoned = [replace(row, advantage=math.nan) if index == 5 else row for index, row in enumerate(batch)]

    metrics = policy.step(poisoned, 1e-3)

    assert metrics["actor/skipped"] == 1.0
    assert metrics["actor/grad_norm"] == -1.0
    assert metrics["actor/not_finite_micro_batches"] == 1.0
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"policy: the loss of a micro-batch of {batch[5].example} is not finite."
    assert same(policy, before)


def test_too_many_skipped_steps_in_a_row_end_the_run(policy_folder: Path, batch: list[TrainingRow]) -> None:
    policy = built(policy_folder, max_skipped=2)
    poisoned = [replace(row, advantage=math.nan) for row in batch]
    policy.step(poisoned, 1e-3)
    policy.step(batch, 0.0)
    policy.step(poisoned, 1e-3)

    with pytest.raises(RunFailed, match=r"2 optimiser steps in a row .*policy\.max_skipped"):
        policy.step(poisoned, 1e-3)


def saved(policy: Policy, folder: Path) -> Path:
    policy.snapshot()
    policy.write(folder)
    return folder


@pytest.mark.parametrize("variant", [{}, {"lora": {"rank": 4}}, {"train_vision": False}], ids=["all", "lora", "blind"])
def test_a_policy_saved_and_loaded_goes_on_bit_identically(
    policy_folder: Path, batch: list[TrainingRow], tmp_path: Path, variant: dict[str, Any]
) -> None:
    undisturbed = built(policy_folder, logprob_tolerance=100, weight_decay=0.1, **variant)
    undisturbed.step(batch, 1e-3)
    saved(undisturbed, tmp_path / "checkpoint")
    resumed = built(policy_folder, logprob_tolerance=100, weight_decay=0.1, **variant)
    resumed.load(tmp_path / "checkpoint")

    undisturbed.step(batch, 1e-3)
    resumed.step(batch, 1e-3)

    assert resumed.version == undisturbed.version == 2
    assert same(resumed, undisturbed)


def test_what_is_written_is_what_was_snapped_though_training_went_on(
    policy_folder: Path, batch: list[TrainingRow], tmp_path: Path
) -> None:
    policy = built(policy_folder, logprob_tolerance=100)
    policy.step(batch, 1e-3)
    policy.snapshot()
    at_snapshot = policy.weights()
    policy.step(batch, 1e-3)

    policy.write(tmp_path)

    written = vlm.load_model(tmp_path / "model").state_dict()
    assert all(torch.equal(written[name], value) for name, value in at_snapshot.items())


def test_a_checkpoint_is_an_ordinary_hugging_face_folder(policy_folder: Path, tmp_path: Path) -> None:
    policy = built(policy_folder)
    usual = tmp_path / "usual"
    vlm.load_model(policy_folder).save_pretrained(usual)
    vlm.load_processor(policy_folder).save_pretrained(usual)

    saved(policy, tmp_path / "ours")

    ours = tmp_path / "ours" / "model"
    assert {path.name for path in ours.iterdir()} == {path.name for path in usual.iterdir()}
    expected, got = load_file(usual / "model.safetensors"), load_file(ours / "model.safetensors")
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    for name in ("config.json", "generation_config.json", "processor_config.json", "tokenizer.json"):
        assert (ours / name).read_text() == (usual / name).read_text()


def test_with_adapters_a_checkpoint_has_them_alone_and_merged(
    policy_folder: Path, batch: list[TrainingRow], tmp_path: Path
) -> None:
    policy = built(policy_folder, lora={"rank": 4})
    policy.step(batch, 1e-2)

    saved(policy, tmp_path)

    merged = built(tmp_path / "model")
    assert same(merged, policy)
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_the_digests_are_those_of_all_files(policy_folder: Path, batch: list[TrainingRow], tmp_path: Path) -> None:
    policy = built(policy_folder, lora={"rank": 4})
    policy.step(batch, 1e-3)
    policy.snapshot()

    digests = policy.write(tmp_path)

    files = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert digests == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()
    }


def test_a_checkpoint_of_other_adapters_is_refused(policy_folder: Path, tmp_path: Path) -> None:
    folder = saved(built(policy_folder, lora={"rank": 4}), tmp_path)

    with pytest.raises(InputError, match=r"trains .*lora_A.weight of 512 numbers.*one of shape \[4, 64\]"):
        built(policy_folder, lora={"rank": 8}).load(folder)


def test_offloading_needs_deepspeed(policy_folder: Path) -> None:
    with pytest.raises(InputError, match="offload: true needs DeepSpeed"):
        built(policy_folder, offload=True)


def test_a_text_only_step_lets_the_vision_towers_moments_decay(
    policy_folder: Path, batch: Sequence[TrainingRow]
) -> None:
    policy = built(policy_folder, logprob_tolerance=100)
    policy.step(batch, 1e-3)
    before = policy.weights()
    blind = [replace(row, images=(), text=row.text.replace("<image>", ""), example="text") for row in batch]

    policy.step(blind, 1e-3)

    name = "model.visual.patch_embed.proj.weight"
    assert not torch.equal(policy.weights()[name], before[name])


def test_on_a_known_gpu_the_updates_share_of_it_is_told(
    policy_folder: Path, batch: list[TrainingRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = built(policy_folder)
    assert "perf/mfu/actor" not in policy.step(batch, 1e-3), "a CPU has no figure to compare with"

    policy = built(policy_folder)
    monkeypatch.setattr(policy, "_gpu", "NVIDIA H100 80GB HBM3")
    metrics = policy.step(batch, 1e-3)

    assert 0 < metrics["perf/mfu/actor"] < 0.01
