"""vLLM as the rollout engine, on a CPU, against transformers on the same weights.

The engine lives in a process of its own, as in a run: vLLM changes torch and torch.distributed for a whole process.
It is started once. Tests load the weights they need, so none depends on another.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from jobs import vlm
from jobs.data import Example
from jobs.grpo.engines.hf import HfEngine
from jobs.grpo.rollout import Request, Sample, TrainingRow
from jobs.grpo.settings import Settings
from orchestrator.errors import InputError
from tests.jobs.grpo.sampled import largest_difference, requests, rows

if TYPE_CHECKING:
    from jobs.grpo.engines.vllm import VllmEngine

pytestmark = pytest.mark.slow

# Not 1, so that a temperature that is applied on one side only is seen.
TEMPERATURE = 0.7
MAX_NEW_TOKENS = 24
START_TIMEOUT_S, CALL_TIMEOUT_S = 280, 120
EMBEDDING = "model.language_model.embed_tokens.weight"

_engine: VllmEngine


class Remote:
    """Calls functions on the engine, in its process."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.submit(function, *arguments).result(timeout=CALL_TIMEOUT_S)

    def generate(self, wanted: Sequence[Request]) -> list[Sample]:
        return self(_generate, wanted)

    def logprobs(self, batch: Sequence[TrainingRow]) -> list[tuple[float, ...]]:
        return self(_logprobs, batch)

    def load_weights(self, weights: dict[str, Tensor], version: int) -> None:
        self(_load_weights, weights, version)


def _start(folder: str) -> None:
    from jobs.grpo import engines

    global _engine
    _engine = engines.build(settings(), folder)


def _generate(wanted: Sequence[Request]) -> list[Sample]:
    return list(_engine.generate(wanted))


def _logprobs(batch: Sequence[TrainingRow]) -> list[tuple[float, ...]]:
    return _engine.logprobs(batch)


def _load_weights(weights: dict[str, Tensor], version: int) -> None:
    _engine.load_weights(weights, version)


def _running_after_one_and_after_stopping(wanted: Sequence[Request]) -> tuple[int, int]:
    samples = _engine.generate(wanted)
    next(samples)
    running = _engine._engine.get_num_unfinished_requests()
    samples.close()
    return running, _engine._engine.get_num_unfinished_requests()


def settings() -> Settings:
    return Settings.model_validate(
        {
            "model": "unused",
            "data": {"path": "unused"},
            "rewards": {"format": 1.0},
            "max_prompt_tokens": 256,
            "engine": {
                "name": "vllm",
                "temperature": TEMPERATURE,
                "max_new_tokens": MAX_NEW_TOKENS,
                "batch": 16,
                "kv_cache_gb": 0.25,
            },
        }
    )


@pytest.fixture(scope="module")
def remote(policy_folder: Path) -> Iterator[Remote]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(str(policy_folder),)) as pool:
        pool.submit(int).result(timeout=START_TIMEOUT_S)
        yield Remote(pool)


@pytest.fixture
def reference(policy_folder: Path) -> HfEngine:
    """The trainer's side: the start weights in transformers."""
    return HfEngine(
        str(policy_folder),
        dtype="float32",
        temperature=TEMPERATURE,
        max_new_tokens=MAX_NEW_TOKENS,
        batch=16,
        max_prompt_tokens=256,
    )


def changed(engine: HfEngine, part: str, factor: float) -> dict[str, Tensor]:
    """Return the engine's weights, those whose name holds ``part`` noticeably others."""
    generator = torch.Generator().manual_seed(3)
    weights = {name: value.clone() for name, value in engine.model.state_dict().items()}
    for name, value in weights.items():
        if part in name and value.ndim > 1:
            value += factor * value.std() * torch.randn(value.shape, generator=generator)
    # The start model's output layer is its embedding.
    weights["lm_head.weight"] = weights[EMBEDDING]
    return weights


def ending(engine: HfEngine) -> dict[str, Tensor]:
    """Return weights of a model that ends now and then, so that responses end at different times."""
    weights = changed(engine, "no such part", 0)
    weights[EMBEDDING][vlm.end_id(engine.processor)] *= 6
    return weights


def test_rollouts_have_the_log_probabilities_that_transformers_gives_them(
    remote: Remote, reference: HfEngine, examples: list[Example]
) -> None:
    remote.load_weights(reference.model.state_dict(), 0)

    batch = rows(examples, remote.generate(requests(examples[:6], 4)))

    expected = reference.logprobs(batch)
    assert largest_difference([row.logprobs for row in batch], expected) < 1e-4
    assert largest_difference(remote.logprobs(batch), expected) < 1e-4


@pytest.mark.parametrize(
    ("part", "factor"),
    [pytest.param("", 1.0, id="all weights"), pytest.param("visual", 3.0, id="the vision tower alone")],
)
def test_new_weights_are_those_that_responses_are_sampled_from(
    remote: Remote, reference: HfEngine, examples: list[Example], part: str, factor: float
) -> None:
    remote.load_weights(reference.model.state_dict(), 0)
    # Fills the caches with what the old weights computed for these very images.
    before = rows(examples, remote.generate(requests(examples[:6], 4)))
    weights = changed(reference, part, factor)
    reference.load_weights(weights, 1)
    forgotten = largest_difference(remote.logprobs(before), reference.logprobs(before))

    remote.load_weights(weights, 1)
    samples = remote.generate(requests(examples[:6], 4, step=2))

    batch = rows(examples, samples)
    assert forgotten > 0.05
    assert largest_difference(remote.logprobs(before), reference.logprobs(before)) < 1e-3
    assert largest_difference([row.logprobs for row in batch], reference.logprobs(batch)) < 1e-3
    assert {sample.version for sample in samples} == {1}


def test_an_incomplete_sync_is_refused_and_a_whole_one_repairs_it(
    remote: Remote, reference: HfEngine, examples: list[Example]
) -> None:
    weights = dict(reference.model.state_dict())
    incomplete = {name: value for name, value in weights.items() if name != "model.visual.merger.mlp.2.weight"}

    with pytest.raises(
        RuntimeError, match=r"the policy gave no weights for 1 of vLLM's: \['visual.merger.mlp.2.weight"
    ):
        remote.load_weights(incomplete, 1)
    remote.load_weights(weights, 1)

    batch = rows(examples, remote.generate(requests(examples[:2], 2)))
    assert largest_difference([row.logprobs for row in batch], reference.logprobs(batch)) < 1e-4


def test_banned_tokens_are_never_sampled(remote: Remote, reference: HfEngine, examples: list[Example]) -> None:
    banned = vlm.banned_ids(reference.processor)
    weights = changed(reference, "no such part", 0)
    # Without the ban this model would write little else.
    weights[EMBEDDING][banned] *= 20
    remote.load_weights(weights, 1)

    samples = remote.generate(requests(examples[:4], 8))

    assert not {token for sample in samples for token in sample.tokens} & set(banned)
    assert all(logprob > -100 for sample in samples for logprob in sample.logprobs)


def test_a_response_ends_with_the_end_token_or_at_the_longest_length(
    remote: Remote, reference: HfEngine, examples: list[Example]
) -> None:
    end = vlm.end_id(reference.processor)
    remote.load_weights(ending(reference), 1)

    samples = remote.generate(requests(examples[:4], 8))

    assert {sample.finished for sample in samples} == {True, False}
    for sample in samples:
        assert sample.finished == (sample.tokens[-1] == end)
        assert sample.finished or len(sample.tokens) == MAX_NEW_TOKENS
        assert end not in sample.tokens[:-1]
        assert sample.text == vlm.decode(reference.processor, sample.tokens)


def test_a_response_is_handed_over_when_it_ends(remote: Remote, reference: HfEngine, examples: list[Example]) -> None:
    remote.load_weights(ending(reference), 1)

    lengths = [len(sample.tokens) for sample in remote.generate(requests(examples[:1], 16))]

    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_who_stops_listening_stops_the_sampling(remote: Remote, reference: HfEngine, examples: list[Example]) -> None:
    remote.load_weights(ending(reference), 1)

    running, left = remote(_running_after_one_and_after_stopping, requests(examples[:1], 16))

    assert running > 0
    assert left == 0


def test_images_matter(remote: Remote, reference: HfEngine, examples: list[Example]) -> None:
    remote.load_weights(changed(reference, "visual", 3.0), 1)
    seen = rows(examples, remote.generate(requests(examples[:1], 4)))
    other = [replace(row, example="another image", images=examples[1].images) for row in seen]

    assert largest_difference(remote.logprobs(seen), remote.logprobs(other)) > 1e-2


def test_prompts_without_images_work(remote: Remote, reference: HfEngine, examples: list[Example]) -> None:
    remote.load_weights(reference.model.state_dict(), 0)
    text_only = [replace(example, id=f"text {example.id}", problem="red or blue?", images=()) for example in examples]

    batch = rows(text_only, remote.generate(requests(text_only[:4], 2)))

    assert len(batch) == 8
    assert largest_difference([row.logprobs for row in batch], reference.logprobs(batch)) < 1e-4


def test_the_same_requests_give_the_same_responses_and_other_seeds_others(
    remote: Remote, reference: HfEngine, examples: list[Example]
) -> None:
    remote.load_weights(reference.model.state_dict(), 0)

    first, again, other = (remote.generate(requests(examples[:4], 4, step=step)) for step in (1, 1, 2))

    assert first == again
    assert len({sample.tokens for sample in first + other}) == 32


def test_more_requests_than_run_at_a_time_are_all_answered(
    remote: Remote, reference: HfEngine, examples: list[Example]
) -> None:
    remote.load_weights(reference.model.state_dict(), 0)

    samples = remote.generate(requests(examples, 4))

    assert sorted((s.group, s.sample) for s in samples) == [(g, s) for g in range(12) for s in range(4)]


def test_a_prompt_that_is_too_long_is_an_error_and_not_cut(remote: Remote, examples: list[Example]) -> None:
    long = replace(requests(examples[:1], 1)[0], example="long", text="red " * 300, images=())

    with pytest.raises(InputError, match=r"^max_prompt_tokens: the prompt of example 'long' has \d+ tokens"):
        remote.generate([*requests(examples[:1], 1), long])
    assert len(remote.generate(requests(examples[:1], 2))) == 2
