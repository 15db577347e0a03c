"""The algorithm against numbers on which five trainers agree, float64, to 1e-9."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.grpo import algo

HERE = Path(__file__).parents[2] / "cases" / "grpo_vectors.json"
BESIDE = Path(__file__).parents[4] / "shared" / "cases" / "grpo_vectors.json"
TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    named = os.environ.get("GRPO_VECTORS")
    path = Path(named) if named else (BESIDE if BESIDE.exists() else HERE)
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def tensor(values: Any) -> torch.Tensor:
    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(v) for v in value]
        return float("nan") if value is None else value

    return torch.tensor(number(values), dtype=torch.float64)


def loss_inputs(vectors: dict[str, Any]) -> dict[str, torch.Tensor]:
    inputs = vectors["inputs"]
    return {
        "new": tensor(inputs["logp_new"]),
        "old": tensor(inputs["logp_old"]),
        "ref": tensor(inputs["logp_ref"]),
        "mask": tensor(inputs["mask"]),
        "advantages": tensor(vectors["advantages"]["trl_group_ddof1_eps1e4"]),
    }


def clipped(vectors: dict[str, Any], *, dual: bool = False) -> algo.PolicyLoss:
    given, config = loss_inputs(vectors), vectors["config"]
    return algo.policy_loss(
        given["new"],
        given["old"],
        given["advantages"],
        clip_low=config["eps_low"],
        clip_high=config["eps_high"],
        dual_clip=config["dual_clip_c"] if dual else None,
    )


@pytest.mark.parametrize(
    ("expected", "options"),
    [
        pytest.param("trl_group_ddof1_eps1e4", {}, id="group"),
        pytest.param("verl_easyr1_skyrl_slime_roll_group_ddof1_eps1e6", {"eps": 1e-6}, id="group as verl"),
        pytest.param("openrlhf_group_norm_ddof1_eps1e9", {"eps": 1e-9}, id="group as OpenRLHF"),
        pytest.param("trl_batch_std_eps1e4", {"normalise": "batch"}, id="batch"),
        pytest.param("dr_grpo_no_std", {"normalise": "none"}, id="none"),
        pytest.param("rloo", {"normalise": "rloo"}, id="rloo"),
    ],
)
def test_advantages(vectors: dict[str, Any], expected: str, options: dict[str, Any]) -> None:
    got = algo.advantages(tensor(vectors["inputs"]["rewards"]), vectors["inputs"]["group"], **options)

    assert torch.allclose(got, tensor(vectors["advantages"][expected]), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dual", [False, True])
def test_token_losses(vectors: dict[str, Any], dual: bool) -> None:
    expected = tensor(vectors["per_token"]["pg_loss_dual_clip" if dual else "pg_loss"])

    got = clipped(vectors, dual=dual).loss * loss_inputs(vectors)["mask"]

    assert torch.allclose(got, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_of_every_token(vectors: dict[str, Any], kind: Any) -> None:
    given = loss_inputs(vectors)

    got = algo.kl(given["new"], given["ref"], kind) * given["mask"]

    assert torch.allclose(got, tensor(vectors["per_token"][f"kl_{kind}"]), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("aggregation", ["token_mean", "seq_mean_token_mean", "dr_grpo"])
@pytest.mark.parametrize("part", ["loss_pg", "loss_pg_dual_clip", "loss_pg_plus_beta_k3"])
def test_losses_of_a_step(vectors: dict[str, Any], aggregation: Any, part: str) -> None:
    given, config = loss_inputs(vectors), vectors["config"]
    losses = clipped(vectors, dual=part == "loss_pg_dual_clip").loss
    if part == "loss_pg_plus_beta_k3":
        losses = losses + config["beta"] * algo.kl(given["new"], given["ref"], "k3")

    weights = algo.token_weights(given["mask"], aggregation, max_tokens=config["max_completion_length"])

    assert float((weights * losses).sum()) == pytest.approx(vectors[part][aggregation], abs=TOLERANCE)


@pytest.mark.parametrize("aggregation", ["token_mean", "seq_mean_token_mean", "dr_grpo"])
def test_gradients(vectors: dict[str, Any], aggregation: Any) -> None:
    given, config = loss_inputs(vectors), vectors["config"]
    new = given["new"].clone().requires_grad_()
    losses = algo.policy_loss(
        new, given["old"], given["advantages"], clip_low=config["eps_low"], clip_high=config["eps_high"]
    ).loss + config["beta"] * algo.kl(new, given["ref"], "k3")

    weights = algo.token_weights(given["mask"], aggregation, max_tokens=config["max_completion_length"])
    (weights * losses).sum().backward()

    expected = tensor(vectors["grad_logp_new_pg_plus_beta_k3"][aggregation])
    assert new.grad is not None
    assert torch.allclose(new.grad, expected, atol=TOLERANCE, rtol=0)


def test_clip_fractions(vectors: dict[str, Any]) -> None:
    mask, result = loss_inputs(vectors)["mask"], clipped(vectors, dual=True)

    got = [algo.masked_mean(part, mask) for part in (result.clipped_low, result.clipped_high, result.dual_clipped)]

    expected = vectors["clip"]
    assert got == pytest.approx([expected["low_frac"], expected["high_frac"], expected["dual_clip_frac"]])


def test_micro_batches_sum_to_the_step(vectors: dict[str, Any]) -> None:
    given, config = loss_inputs(vectors), vectors["config"]
    losses = clipped(vectors).loss + config["beta"] * algo.kl(given["new"], given["ref"], "k3")
    expected = vectors["micro_batch_invariance"]

    for split, parts in zip(expected["splits"], expected["correct_partial_sums_token_mean"], strict=True):
        got = [
            float((part_weights(given["mask"], rows, config) * losses[rows]).sum())
            for rows in (torch.tensor(r) for r in split)
        ]
        assert got == pytest.approx(parts, abs=TOLERANCE)


def part_weights(mask: torch.Tensor, rows: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    return algo.token_weights(
        mask[rows],
        "token_mean",
        max_tokens=config["max_completion_length"],
        rows=len(mask),
        tokens=int(mask.sum()),
    )
