"""The algorithm against numbers on which verl, EasyR1, OpenRLHF and TRL agree: float64 to 1e-9, float32 to 1e-5.

``CASES`` says for every value of the file how ours is computed. A value that is neither there, nor read to compute
one that is, nor listed as somebody else's, fails the last test. Losses of a step go through ``objective.loss``, which
is what training calls.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jobs.grpo import algo, objective
from jobs.grpo.objective import Tokens, Whole
from jobs.grpo.rollout import TrainingRow
from jobs.grpo.settings import Algorithm

HERE = Path(__file__).parents[2] / "cases" / "grpo_vectors.json"
BESIDE = Path(__file__).parents[4] / "shared" / "cases" / "grpo_vectors.json"
NAMED = os.environ.get("GRPO_VECTORS")
PATH = Path(NAMED) if NAMED else (BESIDE if BESIDE.exists() else HERE)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


class Vectors:
    """The file, a value at a path such as ``clip/low_frac``; remembers what was read."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._file: dict[str, Any] = json.loads(PATH.read_text())
        self.dtype = dtype
        self.read: set[str] = set()

    def value(self, path: str) -> Any:
        self.read.add(path)
        found: Any = self._file
        for key in path.split("/"):
            found = found[key]
        return found

    def tensor(self, path: str) -> Tensor:
        return torch.tensor(numbers(self.value(path)), dtype=self.dtype)

    def rows(self) -> int:
        return len(self.value("inputs/group"))

    def leaves(self) -> set[str]:
        return set(paths(self._file, ""))


def numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [numbers(each) for each in value]
    return float("nan") if value is None else value


def paths(value: dict[str, Any], above: str) -> Iterator[str]:
    for key, below in value.items():
        if isinstance(below, dict):
            yield from paths(below, f"{above}{key}/")
        else:
            yield above + key


def algorithm(v: Vectors, **changes: Any) -> Algorithm:
    low, high = v.value("config/eps_low"), v.value("config/eps_high")
    return Algorithm.model_validate({"clip_low": low, "clip_high": high} | changes)


def tokens(v: Vectors, **changes: Any) -> Tokens:
    values: dict[str, Any] = {
        "new_NT": v.tensor("inputs/logp_new"),
        "old_NT": v.tensor("inputs/logp_old"),
        "sampler_NT": v.tensor("inputs/logp_sampler"),
        "reference_NT": None,
        "mask_NT": v.tensor("inputs/mask"),
        "advantages_N": v.tensor("advantages/trl_group_ddof1_eps1e4"),
    }
    values |= changes
    return Tokens(entropy_NT=torch.zeros_like(values["new_NT"]), **values)


def whole(given: Tokens) -> Whole:
    return Whole(rows=len(given.mask_NT), tokens=int(given.mask_NT.sum()))


def step(v: Vectors, given: Tokens, settings: Algorithm, counted: Whole | None = None) -> tuple[Tensor, dict[str, Any]]:
    longest = v.value("config/max_completion_length")
    return objective.loss(given, counted or whole(given), settings, max_new_tokens=longest)


def step_loss(v: Vectors, given: Tokens, settings: Algorithm, counted: Whole | None = None) -> Tensor:
    return step(v, given, settings, counted)[0]


def metric(v: Vectors, name: str, **changes: Any) -> float:
    _, sums = step(v, tokens(v), algorithm(v, **changes))
    return objective.metrics({key: float(value) for key, value in sums.items()})[name]


def with_reference(v: Vectors, **changes: Any) -> tuple[Tokens, Algorithm]:
    given = tokens(v, reference_NT=v.tensor("inputs/logp_ref"), **changes)
    return given, algorithm(v, kl_coefficient=v.value("config/beta"))


def gradient(v: Vectors, aggregation: str) -> Tensor:
    new_NT = v.tensor("inputs/logp_new").requires_grad_()
    given, settings = with_reference(v, new_NT=new_NT)
    step_loss(v, given, settings.model_copy(update={"aggregation": aggregation})).backward()
    assert new_NT.grad is not None
    return new_NT.grad


def ratio(v: Vectors) -> Tensor:
    """The loss for the advantage -1, clipping out of reach."""
    given = tokens(v)
    minus_N = -torch.ones_like(given.advantages_N)
    parts = algo.policy_loss(given.new_NT, given.old_NT, minus_N, clip_low=0.99, clip_high=99)
    return parts.loss * given.mask_NT


def token_loss(v: Vectors, dual_clip: float | None) -> Tensor:
    given, settings = tokens(v), algorithm(v)
    parts = algo.policy_loss(
        given.new_NT,
        given.old_NT,
        given.advantages_N,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        dual_clip=dual_clip,
    )
    return parts.loss * given.mask_NT


def kl(v: Vectors, kind: Any) -> Tensor:
    return algo.kl(v.tensor("inputs/logp_new"), v.tensor("inputs/logp_ref"), kind) * v.tensor("inputs/mask")


def aggregated(v: Vectors, loss_NT: Tensor, aggregation: Any) -> Tensor:
    longest = v.value("config/max_completion_length")
    return (algo.token_weights(v.tensor("inputs/mask"), aggregation, max_tokens=longest) * loss_NT).sum()


def gspo(v: Vectors, advantages_N: Tensor, low: float, high: float) -> algo.PolicyLoss:
    given = tokens(v)
    return algo.gspo_loss(given.new_NT, given.old_NT, advantages_N, given.mask_NT, clip_low=low, clip_high=high)


def gspo_of_config(v: Vectors) -> algo.PolicyLoss:
    low, high = v.value("config/gspo_eps_low"), v.value("config/gspo_eps_high")
    return gspo(v, v.tensor("advantages/trl_group_ddof1_eps1e4"), low, high)


def gspo_settings(v: Vectors) -> Algorithm:
    low, high = v.value("config/gspo_eps_low"), v.value("config/gspo_eps_high")
    return Algorithm(loss="gspo", clip_low=low, clip_high=high, aggregation="seq_mean_token_mean")


def cispo(v: Vectors) -> dict[str, Any]:
    return {"loss": "cispo", "cispo_cap": v.value("config/cispo_eps_high_abs")}


def sampler_ratio(v: Vectors, kind: algo.Importance) -> Tensor:
    given = tokens(v)
    return algo.importance_weights(given.old_NT, given.sampler_NT, given.mask_NT, kind, float("inf")).weights


def truncated(v: Vectors) -> dict[str, Any]:
    return {"importance": "token", "importance_cap": v.value("config/tis_cap")}


def sequence_masked(v: Vectors) -> dict[str, Any]:
    return {"importance": "sequence_mask", "importance_cap": v.value("config/seq_mask_cap")}


def overlong(v: Vectors, aggregation: str, *, all_rows: bool) -> Tensor:
    """The loss when some responses were cut off; TRL divides by all rows, verl by those that are left."""
    cut = v.value("overlong_filtered/rows")
    rows = [row(length, finished=index not in cut) for index, length in enumerate(v.value("inputs/lengths"))]
    settings = algorithm(v, mask_overlong=True, aggregation=aggregation)
    given = tokens(v, mask_NT=objective.row_mask(v.tensor("inputs/mask"), rows, settings))
    return step_loss(v, given, settings, whole(given) if all_rows else objective.counted(rows, settings))


def row(length: int, *, finished: bool) -> TrainingRow:
    return TrainingRow(
        example="", text="", images=(), tokens=(0,) * length, logprobs=(0.0,) * length, advantage=0.0, finished=finished
    )


def part(v: Vectors, rows: list[int]) -> Tensor:
    given, settings = with_reference(v)
    pick = torch.tensor(rows)
    assert given.reference_NT is not None
    some = Tokens(
        new_NT=given.new_NT[pick],
        entropy_NT=given.entropy_NT[pick],
        old_NT=given.old_NT[pick],
        sampler_NT=given.sampler_NT[pick],
        reference_NT=given.reference_NT[pick],
        mask_NT=given.mask_NT[pick],
        advantages_N=given.advantages_N[pick],
    )
    return step_loss(v, some, settings, whole(given))


def parts_of_step(v: Vectors) -> list[list[Tensor]]:
    return [[part(v, rows) for rows in split] for split in v.value("micro_batch_invariance/splits")]


def mask_from_lengths(v: Vectors) -> Tensor:
    lengths = v.tensor("inputs/lengths")
    return (torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)).to(v.dtype)


def penalties(v: Vectors) -> Tensor:
    longest, margin = v.value("dapo_soft_overlong/L_max"), v.value("dapo_soft_overlong/L_cache")
    return algo.overlong_penalty(v.tensor("dapo_soft_overlong/lengths"), longest=longest, margin=margin)


def advantages(**options: Any) -> Compute:
    return lambda v: algo.advantages(v.tensor("inputs/rewards"), v.value("inputs/group"), **options)


Compute = Callable[[Vectors], Any]
# The name in the file, ours. No response is empty unless some are filtered, so both of its means are ours there.
AGGREGATIONS = {
    "token_mean": "token_mean",
    "seq_mean_token_mean": "seq_mean_token_mean",
    "seq_mean_token_mean_excl_empty": "seq_mean_token_mean",
    "dr_grpo": "dr_grpo",
}
STEP_LOSSES: dict[str, Callable[[Vectors], tuple[Tokens, Algorithm]]] = {
    "loss_pg": lambda v: (tokens(v), algorithm(v)),
    "loss_pg_dual_clip": lambda v: (tokens(v), algorithm(v, dual_clip=v.value("config/dual_clip_c"))),
    "loss_pg_plus_beta_k3": with_reference,
    "importance_sampling/token_truncate": lambda v: (tokens(v), algorithm(v, **truncated(v))),
    "importance_sampling/sequence_mask": lambda v: (tokens(v), algorithm(v, **sequence_masked(v))),
    "on_policy/loss_pg": lambda v: (tokens(v, new_NT=v.tensor("inputs/logp_old")), algorithm(v)),
}


def aggregated_step(name: str, aggregation: str) -> Compute:
    def compute(v: Vectors) -> Tensor:
        given, settings = STEP_LOSSES[name](v)
        return step_loss(v, given, settings.model_copy(update={"aggregation": aggregation}))

    return compute


def aggregated_kl(kind: str, aggregation: str) -> Compute:
    return lambda v: aggregated(v, kl(v, kind), aggregation)


CASES: dict[str, Compute] = {
    "advantages/trl_group_ddof1_eps1e4": advantages(),
    "advantages/verl_easyr1_skyrl_slime_roll_group_ddof1_eps1e6": advantages(eps=1e-6),
    "advantages/openrlhf_group_norm_ddof1_eps1e9": advantages(eps=1e-9),
    "advantages/trl_batch_std_eps1e4": advantages(normalise="batch"),
    "advantages/dr_grpo_no_std": advantages(normalise="none"),
    "advantages/rloo": advantages(normalise="rloo"),
    "inputs/mask": mask_from_lengths,
    "per_token/ratio": ratio,
    "per_token/pg_loss": lambda v: token_loss(v, None),
    "per_token/pg_loss_dual_clip": lambda v: token_loss(v, v.value("config/dual_clip_c")),
    "per_token/kl_k1": lambda v: kl(v, "k1"),
    "per_token/kl_k2": lambda v: kl(v, "k2"),
    "per_token/kl_k3": lambda v: kl(v, "k3"),
    "clip/low_frac": lambda v: metric(v, "actor/clip_low_frac"),
    "clip/high_frac": lambda v: metric(v, "actor/clip_high_frac"),
    "clip/region_frac": lambda v: metric(v, "actor/pg_clipfrac"),
    "clip/region_frac_eps_0p2_0p2": lambda v: metric(v, "actor/pg_clipfrac", clip_low=0.2, clip_high=0.2),
    "clip/dual_clip_frac": lambda v: metric(v, "actor/pg_clipfrac_lower", dual_clip=v.value("config/dual_clip_c")),
    "clip/approx_kl_old_new_k1": lambda v: metric(v, "actor/ppo_kl"),
    "grad_logp_new_pg_plus_beta_k3/token_mean": lambda v: gradient(v, "token_mean"),
    "grad_logp_new_pg_plus_beta_k3/seq_mean_token_mean": lambda v: gradient(v, "seq_mean_token_mean"),
    "grad_logp_new_pg_plus_beta_k3/dr_grpo": lambda v: gradient(v, "dr_grpo"),
    "gspo/seq_ratio": lambda v: gspo(v, -torch.ones(v.rows(), dtype=v.dtype), 0.99, 99).loss[:, 0],
    "gspo/per_seq_loss": lambda v: gspo_of_config(v).loss[:, 0],
    "gspo/loss": lambda v: step_loss(v, tokens(v), gspo_settings(v)),
    "gspo/clip_frac_seq": lambda v: (
        (gspo_of_config(v).clipped_low | gspo_of_config(v).clipped_high)[:, 0].to(v.dtype).mean()
    ),
    "cispo/trl_abs_cap": lambda v: step_loss(v, tokens(v), algorithm(v, **cispo(v))),
    "cispo/trl_clip_frac": lambda v: metric(v, "actor/pg_clipfrac", **cispo(v)),
    "cispo/verl_1pm_eps": lambda v: step_loss(v, tokens(v), algorithm(v, loss="cispo_verl")),
    "cispo/verl_clip_frac": lambda v: metric(v, "actor/pg_clipfrac", loss="cispo_verl"),
    "importance_sampling/token_ratio": lambda v: sampler_ratio(v, "token") * v.tensor("inputs/mask"),
    "importance_sampling/seq_ratio": lambda v: sampler_ratio(v, "sequence_mask")[:, 0],
    "importance_sampling/sampler_k3": lambda v: metric(v, "actor/engine_kl"),
    "importance_sampling/mean_abs_logprob_diff": lambda v: metric(v, "actor/engine_logprob_difference"),
    "overlong_filtered/loss_pg/token_mean": lambda v: overlong(v, "token_mean", all_rows=False),
    "overlong_filtered/loss_pg/seq_mean_token_mean": lambda v: overlong(v, "seq_mean_token_mean", all_rows=True),
    "overlong_filtered/loss_pg/seq_mean_token_mean_excl_empty": lambda v: overlong(
        v, "seq_mean_token_mean", all_rows=False
    ),
    "overlong_filtered/loss_pg/dr_grpo": lambda v: overlong(v, "dr_grpo", all_rows=False),
    "micro_batch_invariance/correct_partial_sums_token_mean": parts_of_step,
    "micro_batch_invariance/expected_total": lambda v: sum(parts_of_step(v)[0]),
    "dapo_soft_overlong/penalty": penalties,
} | {f"{name}/{theirs}": aggregated_step(name, ours) for name in STEP_LOSSES for theirs, ours in AGGREGATIONS.items()}
CASES |= {
    f"kl/{kind}/{theirs}": aggregated_kl(kind, ours)
    for kind in ("k1", "k2", "k3")
    for theirs, ours in AGGREGATIONS.items()
}

AGGREGATED = (*STEP_LOSSES, "kl/k1", "kl/k2", "kl/k3", "overlong_filtered/loss_pg")
OTHERS = {
    # Standard deviations with ddof 0, and NeMo-RL's of the other samples only: neither is among our settings.
    "advantages/population_ddof0_eps1e6",
    "advantages/nemo_rl_default_loo",
    # What the field's most repeated bug would give.
    "micro_batch_invariance/wrong_mean_of_micro_means",
    # Sums over a response, not means: two aggregations of verl.
    *(f"{name}/seq_mean_token_sum" for name in AGGREGATED),
    *(f"{name}/verl_seq_mean_token_sum_norm_before_pr5366" for name in AGGREGATED),
}
PROSE = ("description", "note", "validated_against", "/note", "/comment")


@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float64, id="float64"), pytest.param(torch.float32, id="float32")]
)
@pytest.mark.parametrize("path", CASES)
def test_ours_is_the_value_at(path: str, dtype: torch.dtype) -> None:
    v = Vectors(dtype)

    got = CASES[path](v)

    assert numbers_in(got) == pytest.approx(numbers_in(v.value(path)), abs=TOLERANCE[dtype], rel=0)


def numbers_in(value: Any) -> list[float]:
    """Return all numbers in nested lists and tensors, in order."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [number for each in value for number in numbers_in(each)]
    return [float(value)]


def test_the_mean_of_micro_batch_means_is_not_what_we_compute() -> None:
    v = Vectors(torch.float64)

    wrong = v.value("micro_batch_invariance/wrong_mean_of_micro_means")

    assert all(abs(float(sum(parts)) - bad) > 1e-3 for parts, bad in zip(parts_of_step(v), wrong, strict=True))


def test_every_value_of_the_file_is_tested_or_known_to_be_another_trainers() -> None:
    v = Vectors(torch.float64)

    for compute in CASES.values():
        compute(v)
    numeric = {path for path in v.leaves() if not path.startswith(PROSE[:3]) and not path.endswith(PROSE[3:])}

    assert numeric - set(CASES) - OTHERS - v.read == set()
    assert set(CASES) | OTHERS <= numeric
