"""The engine on transformers, and what all engines share, on a random tiny Qwen2.5-VL."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jobs import vlm
from jobs.data import Example
from jobs.grpo import engines
from jobs.grpo.engines import hf
from jobs.grpo.engines.hf import HfEngine
from jobs.grpo.engines.prompts import EncodedPrompts
from jobs.grpo.settings import Settings
from orchestrator.errors import InputError
from tests.jobs.grpo.sampled import largest_difference, requests, rows

MAX_NEW_TOKENS = 12


def hf_engine(folder: Path, *, max_new_tokens: int = MAX_NEW_TOKENS, temperature: float = 1.0) -> HfEngine:
    return HfEngine(
        str(folder),
        dtype="float32",
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        batch=8,
        max_prompt_tokens=512,
    )


@pytest.fixture(scope="module")
def engine(policy_folder: Path) -> HfEngine:
    return hf_engine(policy_folder)


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
    engine = hf_engine(policy_folder, max_new_tokens=64)
    end = vlm.end_id(engine.processor)
    with torch.no_grad():
        # A model that ends about every tenth token, so that rows end at different times.
        engine.model.lm_head.bias = torch.nn.Parameter(torch.zeros(engine.model.lm_head.out_features))
        engine.model.lm_head.bias[end] = 4.5

    lengths = [len(s.tokens) for s in engine.generate(requests(examples[:1], 8))]

    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_rows_that_are_left_go_on_alone_as_they_would_have_beside_the_others(
    policy_folder: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = hf_engine(policy_folder, max_new_tokens=48)
    end = vlm.end_id(engine.processor)
    with torch.no_grad():
        engine.model.lm_head.bias = torch.nn.Parameter(torch.zeros(engine.model.lm_head.out_features))
        engine.model.lm_head.bias[end] = 3.5
    asked = requests([examples[0], replace(examples[1], problem=f"{examples[1].problem} Of all that is there?")], 4)

    rows_at_a_time: list[int] = []
    engine.model.register_forward_pre_hook(
        lambda _, __, given: rows_at_a_time.append(len(given["input_ids"])), with_kwargs=True
    )
    compacted = {(s.group, s.sample): s for s in engine.generate(asked)}
    smallest = min(rows_at_a_time)
    monkeypatch.setattr(hf, "SHARE_LEFT", 0)
    whole = {(s.group, s.sample): s for s in engine.generate(asked)}

    assert smallest <= 3
    assert len({len(s.tokens) for s in whole.values()}) > 3
    assert {key: s.tokens for key, s in compacted.items()} == {key: s.tokens for key, s in whole.items()}
    for key, sample in compacted.items():
        assert sample.logprobs == pytest.approx(whole[key].logprobs, abs=1e-5)
    batch = rows(
        [examples[0], replace(examples[1], problem=f"{examples[1].problem} Of all that is there?")],
        list(compacted.values()),
    )
    assert largest_difference(engine.logprobs(batch), [row.logprobs for row in batch]) < 1e-4


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_given_tokens_get_the_log_probabilities_they_were_sampled_with(
    policy_folder: Path, examples: list[Example], temperature: float
) -> None:
    engine = hf_engine(policy_folder, temperature=temperature)
    batch = rows(examples, list(engine.generate(requests(examples[:3], 4))))

    assert largest_difference(engine.logprobs(batch), [row.logprobs for row in batch]) < 1e-4


def test_other_weights_give_given_tokens_other_log_probabilities(policy_folder: Path, examples: list[Example]) -> None:
    engine = hf_engine(policy_folder)
    batch = rows(examples, list(engine.generate(requests(examples[:2], 4))))
    weights = {name: value.clone() for name, value in engine.model.state_dict().items()}
    weights["model.visual.merger.mlp.2.weight"] *= 3

    engine.load_weights(weights, 1)

    assert largest_difference(engine.logprobs(batch), [row.logprobs for row in batch]) > 1e-2
    assert engine.version == 1


def test_a_prompt_that_is_too_long_is_an_error_and_not_cut(engine: HfEngine, examples: list[Example]) -> None:
    prompts = EncodedPrompts(engine.processor, max_tokens=30)
    request = replace(requests(examples[:1], 1)[0], example="long")

    with pytest.raises(InputError, match=r"^max_prompt_tokens: the prompt of example 'long' has \d+ tokens, more than"):
        prompts.of(request)


def test_a_prompt_is_encoded_once(engine: HfEngine, examples: list[Example]) -> None:
    prompts = EncodedPrompts(engine.processor, max_tokens=512)
    first, second = requests(examples[:1], 2)

    assert prompts.of(first) is prompts.of(second)


def test_the_settings_name_the_engine(policy_folder: Path) -> None:
    settings = Settings.model_validate(
        {"model": "unused", "data": {"path": "unused"}, "rewards": {"format": 1.0}, "engine": {"temperature": 0.5}}
    )

    built = engines.build(settings, str(policy_folder))

    assert isinstance(built, HfEngine)
    assert built.temperature == 0.5


def test_importing_the_engines_imports_no_library_of_theirs() -> None:
    script = "import sys, jobs.grpo.engines; print(sorted({'torch', 'transformers', 'vllm'} & set(sys.modules)))"

    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert found.stdout == "[]\n"
