"""Every backend makes the same steps: alone, with two ranks, in one micro-batch or four, and after a resume.

What is compared is plain torch on one rank with all rows in one micro-batch. Rows with and without images are mixed,
and the last step has none with an image, so that the vision tower is reached by no gradient. One step in between has a
gradient that is not a number, and is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from jobs.grpo.policy import Policy
from tests.jobs.grpo import backend_cases
from tests.jobs.grpo.backend_cases import BACKENDS, LEARNING_RATE, STEPS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
CHECKOUT = Path(__file__).parents[3]
LIMIT_S = 1000

EXACT = ("whole", "halves", "quarters", "kl", "blind", "lora")
FLOAT32 = [
    *(f"{backend}-{variant}" for backend in BACKENDS for variant in EXACT),
    "fsdp2-checkpointing",
    "zero3-checkpointing",
    "zero1-offload",
    "zero2-offload",
    "zero3-offload",
]
BFLOAT16 = [f"{backend}-bfloat16" for backend in BACKENDS]
REFERENCE = {"kl": "torch-kl", "blind": "torch-blind", "lora": "torch-lora", "bfloat16": "torch-bfloat16"}
# Plain torch is what all are compared with; the two others stand for their kind on one rank.
ALONE = [
    *(f"torch-{variant}" for variant in (*EXACT, "bfloat16")),
    "fsdp2-quarters",
    "fsdp2-lora",
    "zero1-halves",
    "zero2-kl",
    "zero2-offload",
    "zero3-quarters",
    "zero3-blind",
    "zero3-bfloat16",
]
TWO = [*FLOAT32, *BFLOAT16]
CASES = [*((name, 1) for name in ALONE), *((name, 2) for name in TWO)]
IDS = [f"{name}-{world}" for name, world in CASES]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, policy_folder: Path) -> Path:
    """Run all cases, one process for those of one rank and two for the others; return the folder of results."""
    folder = tmp_path_factory.mktemp("backends")
    shutil.copytree(policy_folder, folder / "policy")
    ranks = [start(folder, 0, 1, ALONE), start(folder, 0, 2, TWO), start(folder, 1, 2, TWO)]
    until = time.monotonic() + LIMIT_S
    try:
        while None in (codes := [rank.poll() for rank in ranks]) and not any(codes):
            assert time.monotonic() < until, f"all cases within {LIMIT_S} s: {said(folder)}"
            time.sleep(0.2)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert codes == [0, 0, 0], said(folder)
    return folder


def start(folder: Path, rank: int, world: int, names: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.jobs.grpo.backend_cases", str(folder), str(rank), str(world), *names]
    with (folder / f"log-{world}-{rank}").open("wb") as log:
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=CHECKOUT, env=env, stdout=log, stderr=log)


def said(folder: Path) -> str:
    return "\n".join(f"{path.name}: {path.read_text()[-3000:]}" for path in sorted(folder.glob("log-*")))


def reference(ran: Path, name: str) -> Path:
    return ran / f"{REFERENCE.get(name.partition('-')[2], 'torch-whole')}-1"


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return by how much the most different number differs."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    return found


@pytest.mark.parametrize(("name", "world"), CASES, ids=IDS)
def test_every_backend_makes_the_same_steps(ran: Path, name: str, world: int) -> None:
    low = name.endswith("bfloat16")
    expected, got = facts(reference(ran, name))["metrics"], facts(ran / f"{name}-{world}")["metrics"]

    assert len(got) == STEPS
    for one, other in zip(expected, got, strict=True):
        compared = {"actor/pg_loss", "actor/grad_norm", "actor/entropy", "actor/kl_loss"} & one.keys()
        for metric in compared:
            assert other[metric] == pytest.approx(one[metric], abs=2e-2 if low else 1e-5), metric
        assert other["actor/rows"] == one["actor/rows"]


@pytest.mark.parametrize(("name", "world"), CASES, ids=IDS)
def test_every_backend_ends_with_the_same_weights(ran: Path, name: str, world: int) -> None:
    expected = load_file(reference(ran, name) / "weights.safetensors")
    got = load_file(ran / f"{name}-{world}" / "weights.safetensors")

    # Adam makes a step of up to the learning rate of any gradient, however small, and its sign may be rounding.
    tolerance = 2.0 if name.endswith("bfloat16") else 0.03
    assert difference(expected, got) < tolerance * LEARNING_RATE * STEPS


@pytest.mark.parametrize(("name", "world"), CASES, ids=IDS)
def test_every_backend_finds_the_same_log_probabilities(ran: Path, name: str, world: int) -> None:
    expected, got = facts(reference(ran, name))["logprobs"], facts(ran / f"{name}-{world}")["logprobs"]

    for one, other in zip(expected, got, strict=True):
        assert other == pytest.approx(one, abs=0.1 if name.endswith("bfloat16") else 1e-4)


@pytest.mark.parametrize(("name", "world"), CASES, ids=IDS)
def test_a_resumed_policy_goes_on_bit_identically(ran: Path, name: str, world: int) -> None:
    folder = ran / f"{name}-{world}"
    straight, resumed = (load_file(f / "weights.safetensors") for f in (folder, folder / "resumed"))

    assert difference(straight, resumed) == 0.0
    assert facts(folder / "resumed")["metrics"] == facts(folder)["metrics"][-1:]
    assert facts(folder / "resumed")["version"] == STEPS + 1  # one of them was skipped


@pytest.mark.parametrize(("name", "world"), CASES, ids=IDS)
def test_a_step_whose_gradient_is_not_finite_is_skipped(ran: Path, name: str, world: int) -> None:
    poisoned = facts(ran / f"{name}-{world}")["poisoned"]

    # That nothing of it is left, the steps after it show.
    assert poisoned["actor/skipped"] == 1.0
    assert poisoned["actor/grad_norm"] == -1.0
    assert poisoned["actor/not_finite_micro_batches"] >= 1.0


@pytest.mark.parametrize("name", ["torch-whole", "fsdp2-whole", "zero1-whole", "zero2-whole", "zero3-whole"])
@pytest.mark.filterwarnings("default")
def test_what_two_ranks_of_any_backend_have_saved_one_rank_of_plain_torch_goes_on_from(ran: Path, name: str) -> None:
    told = backend_cases.settings(ran, "torch", "whole")
    policy = Policy(told, told.model)

    policy.load(ran / f"{name}-2" / "checkpoint")
    backend_cases.train(policy, STEPS - 1, STEPS)

    assert difference(load_file(reference(ran, name) / "weights.safetensors"), policy.weights()) < 0.1 * LEARNING_RATE


@pytest.mark.parametrize("name", backend_cases.CROSSED)
def test_two_ranks_go_on_from_what_one_has_saved(ran: Path, name: str) -> None:
    got = load_file(ran / f"{name}-2" / "crossed" / "weights.safetensors")

    assert difference(load_file(reference(ran, name) / "weights.safetensors"), got) < 0.1 * LEARNING_RATE


@pytest.mark.parametrize("name", ["torch-whole", "fsdp2-whole", "zero3-whole", "zero3-lora"])
def test_the_files_of_two_ranks_are_one_folder(ran: Path, name: str) -> None:
    folder = ran / f"{name}-2" / "checkpoint"
    digests = [json.loads((ran / f"{name}-2" / f"digests-{rank}.json").read_text()) for rank in (0, 1)]
    written = [{file for file in each if file.endswith(".safetensors")} for each in digests]

    assert "model/model-00001-of-00002.safetensors" in written[0]
    assert "model/model-00002-of-00002.safetensors" in written[1]
    assert not digests[0].keys() & digests[1].keys()
    assert digests[0].keys() | digests[1].keys() == {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    }
    sizes = [each[f"model/model-0000{rank + 1}-of-00002.safetensors"]["bytes"] for rank, each in enumerate(digests)]
    assert max(sizes) < 1.2 * min(sizes)
    merged = Policy(backend_cases.settings(ran, "torch", "whole"), str(folder / "model")).weights()
    assert merged.keys() == load_file(ran / f"{name}-2" / "weights.safetensors").keys()
    assert all(torch.isfinite(value).all() for value in merged.values())
