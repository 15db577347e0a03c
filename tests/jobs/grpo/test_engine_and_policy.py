"""Sampling and updating on a random tiny Qwen2.5-VL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import vlm
from jobs.data import Example
from jobs.grpo.engine import HfEngine
from jobs.grpo.policy import MODEL_FOLDER, TorchPolicy, WeightsDiffer
from jobs.grpo.prompts import sample_seed
from jobs.grpo.rollout import Request, Sample, TrainingRow
from jobs.grpo.settings import Settings

MAX_NEW_TOKENS = 12


@pytest.fixture(scope="module")
def engine(policy_folder: Path) -> HfEngine:
    return HfEngine(
        str(policy_folder),
        dtype="float32",
        temperature=1.0,
        max_new_tokens=MAX_NEW_TOKENS,
        batch=8,
        max_prompt_tokens=512,
    )


def settings(**policy: Any) -> Settings:
    return Settings.model_validate(
        {
            "model": "unused",
            "data": {"path": "unused"},
            "rewards": {"format": 1.0},
            "engine": {"max_new_tokens": MAX_NEW_TOKENS},
            "policy": {"learning_rate": 1e-3, **policy},
        }
    )


def requests(examples: Sequence[Example], samples: int) -> list[Request]:
    return [
        Request(
            group=index,
            sample=sample,
            example=example.id,
            text=example.problem,
            images=example.images,
            seed=sample_seed(1, 1, example.id, sample),
        )
        for index, example in enumerate(examples)
        for sample in range(samples)
    ]


def rows(examples: Sequence[Example], samples: Sequence[Sample]) -> list[TrainingRow]:
    return [
        TrainingRow(
            example=examples[s.group].id,
            text=examples[s.group].problem,
            images=examples[s.group].images,
            tokens=s.tokens,
            logprobs=s.logprobs,
            advantage=1.0 if s.sample % 2 else -1.0,
        )
        for s in sorted(samples, key=lambda s: (s.group, s.sample))
    ]


def test_a_response_depends_on_its_seed_and_not_on_what_is_sampled_beside_it(
    engine: HfEngine, examples: list[Example]
) -> None:
    wanted = requests(examples[:2], 3)

    together = {(s.group, s.sample): s.tokens for s in engine.generate(wanted)}
    alone = {(s.group, s.sample): s.tokens for request in wanted for s in engine.generate([request])}

    assert together == alone
    assert len(set(together.values())) > 1


def test_banned_tokens_are_never_sampled(engine: HfEngine, examples: list[Example]) -> None:
    banned = set(vlm.banned_ids(engine.processor))

    sampled = {token for s in engine.generate(requests(examples[:2], 8)) for token in s.tokens}

    assert banned
    assert not sampled & banned


def test_a_response_is_handed_over_when_it_ends(policy_folder: Path, examples: list[Example]) -> None:
    engine = HfEngine(
        str(policy_folder), dtype="float32", temperature=1.0, max_new_tokens=64, batch=8, max_prompt_tokens=512
    )
    end = vlm.end_id(engine.processor)
    with torch.no_grad():
        # A model that ends about every tenth token, so that rows end at different times.
        engine.model.lm_head.bias = torch.nn.Parameter(torch.zeros(engine.model.lm_head.out_features))
        engine.model.lm_head.bias[end] = 4.5

    lengths = [len(s.tokens) for s in engine.generate(requests(examples[:1], 8))]

    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_the_trainer_finds_the_engines_log_probabilities(
    engine: HfEngine, policy_folder: Path, examples: list[Example]
) -> None:
    samples = list(engine.generate(requests(examples[:3], 4)))

    metrics = TorchPolicy(settings(), str(policy_folder)).step(rows(examples, samples), 1e-3)

    assert metrics["actor/engine_logprob_difference"] < 1e-4
    assert metrics["actor/pg_clipfrac"] == 0.0
    assert metrics["actor/grad_norm"] > 0


def test_a_forgotten_weight_sync_stops_the_run(engine: HfEngine, policy_folder: Path, examples: list[Example]) -> None:
    batch = rows(examples, list(engine.generate(requests(examples[:3], 4))))
    policy = TorchPolicy(settings(learning_rate=1e-2), str(policy_folder))
    policy.step(batch, 1e-2)

    with pytest.raises(WeightsDiffer, match="differ by"):
        policy.step(batch, 1e-2)


@pytest.mark.parametrize("micro_batch", [3, 4, 12])
def test_micro_batches_do_not_change_the_update(
    engine: HfEngine, policy_folder: Path, examples: list[Example], micro_batch: int
) -> None:
    batch = rows(examples, list(engine.generate(requests(examples[:3], 4))))
    whole = TorchPolicy(settings(micro_batch=12), str(policy_folder))
    parts = TorchPolicy(settings(micro_batch=micro_batch), str(policy_folder))

    expected, got = whole.step(batch, 1e-3), parts.step(batch, 1e-3)

    assert got["actor/pg_loss"] == pytest.approx(expected["actor/pg_loss"], abs=1e-6)
    assert got["actor/grad_norm"] == pytest.approx(expected["actor/grad_norm"], rel=1e-4)


def test_rows_without_advantage_only_dilute(engine: HfEngine, policy_folder: Path, examples: list[Example]) -> None:
    batch = rows(examples, list(engine.generate(requests(examples[:2], 4))))
    muted = [replace(row, advantage=0.0) for row in batch]
    alone, diluted = (TorchPolicy(settings(), str(policy_folder)) for _ in range(2))

    expected, got = alone.step(batch, 1e-3), diluted.step(batch + muted, 1e-3)

    assert got["actor/rows"] == 8
    assert got["actor/pg_loss"] == pytest.approx(expected["actor/pg_loss"] / 2, abs=1e-7)


def test_a_batch_that_teaches_nothing_leaves_the_policy_alone(
    engine: HfEngine, policy_folder: Path, examples: list[Example]
) -> None:
    batch = rows(examples, list(engine.generate(requests(examples[:2], 4))))
    policy = TorchPolicy(settings(), str(policy_folder))
    before = policy.weights()

    metrics = policy.step([replace(row, advantage=0.0) for row in batch], 1e-3)

    assert metrics["actor/skipped"] == 1.0
    assert all(torch.equal(value, policy.weights()[name]) for name, value in before.items())


def test_a_policy_saved_and_loaded_goes_on_bit_identically(
    engine: HfEngine, policy_folder: Path, examples: list[Example], tmp_path: Path
) -> None:
    batch = rows(examples, list(engine.generate(requests(examples[:3], 4))))
    undisturbed = TorchPolicy(settings(logprob_tolerance=100), str(policy_folder))
    undisturbed.step(batch, 1e-3)
    undisturbed.save(tmp_path)
    resumed = TorchPolicy(settings(logprob_tolerance=100), str(tmp_path / MODEL_FOLDER))
    resumed.load_optimizer(tmp_path)

    undisturbed.step(batch, 1e-3)
    resumed.step(batch, 1e-3)

    for name, value in undisturbed.weights().items():
        assert torch.equal(value, resumed.weights()[name]), name
