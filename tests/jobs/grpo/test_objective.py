"""The loss of a step: the same however its rows are split, blind to what is masked, and the one of earlier releases."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jobs.grpo import algo, objective
from jobs.grpo.objective import Tokens, Whole
from jobs.grpo.rollout import TrainingRow
from jobs.grpo.settings import Algorithm

LONGEST = 6
algorithms = st.builds(
    Algorithm,
    loss=st.sampled_from(["ppo", "gspo", "cispo", "cispo_verl"]),
    aggregation=st.sampled_from(["token_mean", "seq_mean_token_mean", "dr_grpo"]),
    importance=st.sampled_from(["none", "token", "sequence_mask"]),
    importance_cap=st.sampled_from([None, 1.0]),
    dual_clip=st.sampled_from([None, 1.5]),
    kl=st.sampled_from(["k1", "k2", "k3"]),
    kl_in=st.sampled_from(["loss", "reward"]),
    kl_coefficient=st.sampled_from([0.0, 0.1]),
    entropy_coefficient=st.sampled_from([0.0, 0.01]),
    mask_overlong=st.booleans(),
)


@st.composite
def batches(draw: st.DrawFn) -> list[TrainingRow]:
    """Rows of a step: lengths, advantages and whether they were cut off are drawn, the rest follows."""
    count = draw(st.integers(1, 8))
    return [
        row(
            draw(st.integers(1, LONGEST)),
            advantage=draw(st.sampled_from([-1.5, -0.5, 0.0, 1.0])),
            finished=draw(st.booleans()),
        )
        for _ in range(count)
    ]


def row(length: int, *, advantage: float = 1.0, finished: bool = True) -> TrainingRow:
    return TrainingRow(
        example="e",
        text="",
        images=(),
        tokens=(0,) * length,
        logprobs=(-1.0,) * length,
        advantage=advantage,
        finished=finished,
    )


def random_tokens(rows: Sequence[TrainingRow], algorithm: Algorithm, *, dtype: torch.dtype, seed: int = 0) -> Tokens:
    """Return a micro-batch of random numbers in which the new policy has moved from the old."""
    random = torch.Generator().manual_seed(seed)
    longest = max(len(r.tokens) for r in rows)
    lengths_N1 = torch.tensor([[len(r.tokens)] for r in rows])
    mask_NT = (torch.arange(longest) < lengths_N1).to(dtype)

    def logp_NT(around: Tensor | float, spread: float) -> Tensor:
        noise_NT = torch.randn(len(rows), longest, generator=random, dtype=torch.float64)
        return ((around + spread * noise_NT) * mask_NT).to(dtype)

    old_NT = logp_NT(-2.0, 0.5)
    with_reference = algorithm.kl_coefficient > 0
    return Tokens(
        new_NT=logp_NT(old_NT, 0.4).requires_grad_(),
        entropy_NT=logp_NT(1.0, 0.1).requires_grad_(),
        old_NT=old_NT,
        sampler_NT=logp_NT(old_NT, 0.2),
        reference_NT=logp_NT(old_NT, 0.3) if with_reference else None,
        mask_NT=objective.row_mask(mask_NT, rows, algorithm),
        advantages_N=torch.tensor([r.advantage for r in rows], dtype=dtype),
    )


def some_rows(tokens: Tokens, indices: Sequence[int]) -> Tokens:
    """Return rows as a micro-batch of their own, padded to its own longest row only."""
    pick = torch.tensor(indices)
    widest = max(int(tokens.mask_NT[pick].sum(-1).max()), 1)

    def part(values: Tensor) -> Tensor:
        return values[pick] if values.dim() == 1 else values[pick, :widest]

    names = [field.name for field in dataclasses.fields(Tokens)]
    values = {name: getattr(tokens, name) for name in names}
    return Tokens(**{name: None if value is None else part(value) for name, value in values.items()})


def step(tokens: Tokens, whole: Whole, algorithm: Algorithm) -> tuple[Tensor, dict[str, Tensor]]:
    return objective.loss(tokens, whole, algorithm, max_new_tokens=LONGEST)


def gradients(loss: Tensor, tokens: Tokens) -> list[Tensor]:
    found = torch.autograd.grad(loss, [tokens.new_NT, tokens.entropy_NT], allow_unused=True)
    return [torch.zeros_like(tokens.new_NT) if each is None else each for each in found]


def summed(parts: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    return {name: sum(float(part[name]) for part in parts) for name in parts[0]}


@settings(deadline=None, max_examples=100)
@given(rows=batches(), algorithm=algorithms, data=st.data())
def test_any_split_into_micro_batches_has_the_same_loss_gradient_and_metrics(
    rows: list[TrainingRow], algorithm: Algorithm, data: st.DataObject
) -> None:
    tokens = random_tokens(rows, algorithm, dtype=torch.float64)
    whole = objective.counted(rows, algorithm)
    place = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    split = [[i for i, p in enumerate(place) if p == part] for part in sorted(set(place))]

    loss, sums = step(tokens, whole, algorithm)
    parts = [step(some_rows(tokens, indices), whole, algorithm) for indices in split]
    together = torch.stack([part for part, _ in parts]).sum()

    assert torch.allclose(together, loss, atol=1e-12, rtol=0)
    for got, expected in zip(gradients(together, tokens), gradients(loss, tokens), strict=True):
        assert torch.allclose(got, expected, atol=1e-12, rtol=0)
    assert objective.metrics(summed([s for _, s in parts])) == pytest.approx(objective.metrics(summed([sums])))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_float32_micro_batches_agree_to_float_tolerance(count: int) -> None:
    algorithm = Algorithm(kl_coefficient=0.1, importance="token", entropy_coefficient=0.01)
    rows = [row(1 + index % LONGEST, advantage=(-1.0) ** index) for index in range(8)]
    tokens, whole = random_tokens(rows, algorithm, dtype=torch.float32), objective.counted(rows, algorithm)
    size = len(rows) // count

    loss, _ = step(tokens, whole, algorithm)
    split = [step(some_rows(tokens, range(i, i + size)), whole, algorithm)[0] for i in range(0, len(rows), size)]
    together = torch.stack(split).sum()

    assert torch.allclose(together, loss, atol=1e-6, rtol=0)
    for got, expected in zip(gradients(together, tokens), gradients(loss, tokens), strict=True):
        assert torch.allclose(got, expected, atol=1e-7, rtol=0)


@settings(deadline=None, max_examples=100)
@given(rows=batches(), algorithm=algorithms, poison=st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e30]))
def test_what_stands_in_masked_places_has_no_influence(
    rows: list[TrainingRow], algorithm: Algorithm, poison: float
) -> None:
    clean = random_tokens(rows, algorithm, dtype=torch.float64)
    hidden_NT = clean.mask_NT == 0
    names = ("new_NT", "entropy_NT", "old_NT", "sampler_NT", "reference_NT")
    values = {name: getattr(clean, name) for name in names}
    dirty = dataclasses.replace(
        clean,
        **{
            name: value.detach().masked_fill(hidden_NT, poison).requires_grad_(value.requires_grad)
            for name, value in values.items()
            if value is not None
        },
    )
    whole = objective.counted(rows, algorithm)

    expected, expected_sums = step(clean, whole, algorithm)
    got, sums = step(dirty, whole, algorithm)

    assert torch.equal(got, expected)
    assert {name: float(value) for name, value in sums.items()} == {n: float(v) for n, v in expected_sums.items()}
    for ours, theirs in zip(gradients(got, dirty), gradients(expected, clean), strict=True):
        assert torch.equal(ours, theirs)
        assert not ours[hidden_NT].any()


def loss_of_release_0_1(
    logp_NT: Tensor, tokens: Tokens, whole: Whole, algorithm: Algorithm
) -> tuple[Tensor, dict[str, float]]:
    """Return what the policy computed before there was an objective: same functions, same order."""
    parts = algo.policy_loss(
        logp_NT,
        tokens.old_NT,
        tokens.advantages_N,
        clip_low=algorithm.clip_low,
        clip_high=algorithm.clip_high,
        dual_clip=algorithm.dual_clip,
    )
    weights_NT = algo.token_weights(
        tokens.mask_NT, algorithm.aggregation, max_tokens=LONGEST, rows=whole.rows, tokens=whole.tokens
    )
    loss_NT = parts.loss
    sums: dict[str, float] = {}
    if tokens.reference_NT is not None:
        kl_NT = algo.kl(logp_NT, tokens.reference_NT, algorithm.kl)
        loss_NT = loss_NT + algorithm.kl_coefficient * kl_NT
        sums["kl_loss"] = float((kl_NT.detach() * tokens.mask_NT).sum())
    clipped = (parts.clipped_low | parts.clipped_high) * tokens.mask_NT
    sums["pg_loss"] = float((weights_NT * parts.loss.detach()).sum())
    sums["clipped"] = float(clipped.sum())
    sums["engine_difference"] = float(((tokens.old_NT - tokens.sampler_NT).abs() * tokens.mask_NT).sum())
    sums["entropy"] = float((tokens.entropy_NT.detach() * tokens.mask_NT).sum())
    return (weights_NT * loss_NT).sum(), sums


@pytest.mark.parametrize("on_policy", [True, False], ids=["first epoch", "later epoch"])
@pytest.mark.parametrize(
    "changes", [{}, {"dual_clip": 1.5}, {"kl_coefficient": 0.04}, {"kl_coefficient": 0.1, "kl": "k1"}]
)
@pytest.mark.parametrize("aggregation", ["token_mean", "seq_mean_token_mean", "dr_grpo"])
def test_existing_runs_keep_their_losses_and_gradients_to_the_bit(
    aggregation: str, changes: dict[str, Any], on_policy: bool
) -> None:
    algorithm = Algorithm.model_validate({"aggregation": aggregation} | changes)
    rows = [row(1 + index % LONGEST, advantage=index - 6.3) for index in range(13)]
    tokens = random_tokens(rows, algorithm, dtype=torch.float32, seed=3)
    if on_policy:
        tokens = dataclasses.replace(tokens, old_NT=tokens.new_NT.detach())
    whole = Whole(rows=len(rows), tokens=sum(len(r.tokens) for r in rows))

    expected, expected_sums = loss_of_release_0_1(tokens.new_NT, tokens, whole, algorithm)
    got, sums = step(tokens, objective.counted(rows, algorithm), algorithm)

    assert torch.equal(got, expected)
    assert torch.equal(gradients(got, tokens)[0], gradients(expected, tokens)[0])
    assert {name: float(sums[name]) for name in expected_sums} == expected_sums


def test_a_first_epoch_has_ratio_1_and_the_gradient_of_reinforce() -> None:
    algorithm, rows = Algorithm(), [row(2, advantage=1.0), row(4, advantage=-0.5)]
    tokens = random_tokens(rows, algorithm, dtype=torch.float64)
    tokens = dataclasses.replace(tokens, old_NT=tokens.new_NT.detach())

    loss, sums = step(tokens, objective.counted(rows, algorithm), algorithm)

    advantages_N1 = tokens.advantages_N.unsqueeze(-1)
    assert torch.allclose(gradients(loss, tokens)[0], -advantages_N1 * tokens.mask_NT / 6)
    assert float(sums["clipped"]) == 0
    assert float(sums["ppo_kl"]) == 0


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        pytest.param("token_mean", Whole(rows=2, tokens=5), id="tokens"),
        pytest.param("seq_mean_token_mean", Whole(rows=2, tokens=5), id="responses"),
        pytest.param("dr_grpo", Whole(rows=3, tokens=5), id="Dr.GRPO divides by a constant"),
    ],
)
def test_cut_off_responses_leave_the_denominators(aggregation: str, expected: Whole) -> None:
    rows = [row(2), row(LONGEST, finished=False), row(3)]
    algorithm = Algorithm.model_validate({"mask_overlong": True, "aggregation": aggregation})

    assert objective.counted(rows, algorithm) == expected


def test_cut_off_responses_count_unless_told_otherwise() -> None:
    rows = [row(2), row(LONGEST, finished=False)]

    assert objective.counted(rows, Algorithm()) == Whole(rows=2, tokens=2 + LONGEST)
    assert objective.teaching(rows, Algorithm()) == rows


def test_a_step_of_cut_off_responses_only_is_zero_and_not_nan() -> None:
    for aggregation in ("token_mean", "seq_mean_token_mean", "dr_grpo"):
        algorithm = Algorithm.model_validate({"mask_overlong": True, "aggregation": aggregation})
        rows = [row(LONGEST, finished=False)]
        tokens = random_tokens(rows, algorithm, dtype=torch.float32)

        loss, sums = step(tokens, objective.counted(rows, algorithm), algorithm)

        assert float(loss.detach()) == 0
        assert not gradients(loss, tokens)[0].any()
        assert objective.metrics(summed([sums]))["actor/entropy"] == 0


@settings(deadline=None, max_examples=100)
@given(rows=batches(), algorithm=algorithms)
def test_rows_that_do_not_teach_have_no_gradient(rows: list[TrainingRow], algorithm: Algorithm) -> None:
    tokens = random_tokens(rows, algorithm, dtype=torch.float64)
    loss, _ = step(tokens, objective.counted(rows, algorithm), algorithm)
    teaching = objective.teaching(rows, algorithm)
    silent = [index for index, each in enumerate(rows) if not any(each is one for one in teaching)]

    assert not any(each[silent].any() for each in gradients(loss, tokens))


def test_an_entropy_bonus_raises_entropy() -> None:
    rows = [row(3, advantage=0.0)]
    algorithm = Algorithm(entropy_coefficient=0.01)
    tokens = random_tokens(rows, algorithm, dtype=torch.float64)

    loss, _ = step(tokens, objective.counted(rows, algorithm), algorithm)

    assert torch.allclose(gradients(loss, tokens)[1], torch.full_like(tokens.new_NT, -0.01 / 3))


def test_a_kl_in_the_reward_is_no_part_of_the_loss() -> None:
    rows = [row(3), row(5, advantage=-1.0)]
    algorithm = Algorithm(kl_coefficient=0.1, kl_in="reward", kl="k1")
    tokens = random_tokens(rows, algorithm, dtype=torch.float64)
    whole = objective.counted(rows, algorithm)

    loss, sums = step(tokens, whole, algorithm)
    without, _ = step(dataclasses.replace(tokens, reference_NT=None), whole, algorithm)

    assert torch.equal(loss, without)
    assert tokens.reference_NT is not None
    assert "actor/kl_loss" not in objective.metrics(summed([sums]))


def test_importance_is_capped_and_says_how_often() -> None:
    rows = [row(2), row(2)]
    algorithm = Algorithm(importance="token")
    tokens = random_tokens(rows, algorithm, dtype=torch.float64)
    tokens = dataclasses.replace(
        tokens, sampler_NT=tokens.old_NT - torch.tensor([[0.0, 5.0], [0.0, 0.0]], dtype=torch.float64)
    )

    _, sums = step(tokens, objective.counted(rows, algorithm), algorithm)

    measured = objective.metrics(summed([sums]))
    assert measured["actor/tis_mean"] == pytest.approx((1 + 2 + 1 + 1) / 4)
    assert measured["actor/tis_capped_frac"] == 1 / 4
    assert measured["actor/engine_logprob_difference"] == pytest.approx(5 / 4)


def test_a_response_that_the_trainer_finds_far_likelier_than_the_engine_is_left_out() -> None:
    rows = [row(2), row(2)]
    algorithm = Algorithm(importance="sequence_mask")
    tokens = random_tokens(rows, algorithm, dtype=torch.float64)
    tokens = dataclasses.replace(
        tokens, sampler_NT=tokens.old_NT - torch.tensor([[0.6, 0.6], [0.0, 0.0]], dtype=torch.float64)
    )

    loss, sums = step(tokens, objective.counted(rows, algorithm), algorithm)

    gradient_NT = gradients(loss, tokens)[0]
    assert not gradient_NT[0].any()
    assert gradient_NT[1].any()
    assert objective.metrics(summed([sums]))["actor/tis_capped_frac"] == 1 / 2


@pytest.mark.parametrize("loss", ["cispo", "cispo_verl"])
def test_cispos_weights_have_no_gradient_of_their_own(loss: str) -> None:
    rows = [row(4), row(6, advantage=-0.5)]
    algorithm = Algorithm.model_validate({"loss": loss, "cispo_cap": 1.1})
    tokens = random_tokens(rows, algorithm, dtype=torch.float64)

    got, _ = step(tokens, objective.counted(rows, algorithm), algorithm)

    ratio_NT = torch.exp(tokens.new_NT - tokens.old_NT).detach()
    weight_NT = ratio_NT.clamp(max=1.1) if loss == "cispo" else ratio_NT.clamp(0.8, 1.3)
    expected_NT = -weight_NT * tokens.advantages_N.unsqueeze(-1) * tokens.mask_NT / 10
    assert torch.allclose(gradients(got, tokens)[0], expected_NT)


@pytest.mark.parametrize("kind", ["token", "sequence_mask"])
def test_importance_weights_have_no_gradient(kind: algo.Importance) -> None:
    logp_NT = torch.full((1, 2), -1.0, requires_grad=True)

    found = algo.importance_weights(logp_NT, torch.full((1, 2), -1.1), torch.ones(1, 2), kind, 2.0)

    assert not found.weights.requires_grad


def test_gspos_ratio_is_of_the_completion_only() -> None:
    new_NT, mask_NT = torch.tensor([[-1.0, -1.0, -9.0]]), torch.tensor([[1.0, 1.0, 0.0]])

    found = algo.gspo_loss(new_NT, torch.zeros(1, 3), -torch.ones(1), mask_NT, clip_low=0.99, clip_high=1.0)

    assert torch.allclose(found.loss, torch.full((1, 3), -1.0).exp())


def test_metrics_have_verls_names() -> None:
    rows = [row(3)]
    algorithm = Algorithm(kl_coefficient=0.1, importance="token")
    tokens = random_tokens(rows, algorithm, dtype=torch.float32)

    _, sums = step(tokens, objective.counted(rows, algorithm), algorithm)

    assert set(objective.metrics(summed([sums]))) == {
        "actor/pg_loss",
        "actor/entropy",
        "actor/kl_loss",
        "actor/pg_clipfrac",
        "actor/pg_clipfrac_lower",
        "actor/clip_low_frac",
        "actor/clip_high_frac",
        "actor/ppo_kl",
        "actor/tis_mean",
        "actor/tis_capped_frac",
        "actor/engine_logprob_difference",
        "actor/engine_kl",
    }
