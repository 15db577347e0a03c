"""The policy as Ray actors on two nodes: meeting, steps, a checkpoint written beside a step, and a rank that dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster

from jobs.grpo.cluster import Cluster, resource
from jobs.grpo.policy_ranks import PolicyRanks, count, interface, places
from jobs.grpo.settings import Settings
from jobs.grpo.workers import WorkerLost
from tests.jobs.grpo import backend_cases

CHECKOUT = str(Path(__file__).parents[3])
NODES = Cluster(hosts=("train0", "train1"), rank=0, cpus=2)


def settings(folder: Path, **policy: Any) -> Settings:
    return Settings.model_validate(
        {
            "model": str(folder),
            "data": {"path": "unused"},
            "rewards": {"format": 1.0},
            "engine": {"max_new_tokens": 12},
            "policy": {"logprob_tolerance": 100, "micro_batch": 4, **policy},
        }
    )


@pytest.mark.parametrize(
    ("ranks", "gpus_per_node", "expected"),
    [
        pytest.param(None, 0, 1, id="one without GPUs"),
        pytest.param(None, 4, 8, id="one for each GPU"),
        pytest.param(3, 4, 3, id="as told"),
    ],
)
def test_there_are_as_many_ranks_as_the_settings_or_the_nodes_say(
    tmp_path: Path, ranks: int | None, gpus_per_node: int, expected: int
) -> None:
    nodes = Cluster(hosts=("a", "b"), rank=0, cpus=2, gpus_per_node=gpus_per_node)

    assert count(settings(tmp_path, ranks=ranks), nodes) == expected


@pytest.mark.parametrize(
    ("ranks", "nodes", "expected"),
    [
        pytest.param(4, 2, [0, 0, 1, 1], id="even"),
        pytest.param(3, 2, [0, 0, 1], id="odd"),
        pytest.param(1, 2, [0], id="fewer than nodes"),
    ],
)
def test_neighbouring_ranks_share_a_node(ranks: int, nodes: int, expected: list[int]) -> None:
    assert places(ranks, nodes) == expected


def test_an_address_of_this_machine_is_reached_by_its_own_interface() -> None:
    assert interface("127.0.0.2") == "lo"
    with pytest.raises(WorkerLost, match="no network interface"):
        interface("203.0.113.7")


def on_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs two Ray nodes. Ray warns of what it will change in later versions."""
    for mark in (
        pytest.mark.slow,
        pytest.mark.timeout(600),
        pytest.mark.filterwarnings("ignore"),
        pytest.mark.usefixtures("ray_of_two_nodes"),
    ):
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def ray_of_two_nodes() -> Iterator[None]:
    cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {resource(0): 1}})
    cluster.add_node(num_cpus=1, resources={resource(1): 1})
    ray.init(
        address=cluster.address,
        log_to_driver=False,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": CHECKOUT}},
    )
    yield
    ray.shutdown()
    cluster.shutdown()


async def started(told: Settings, resume_from: Path | None = None) -> PolicyRanks:
    ranks = PolicyRanks(told, NODES, told.model, resume_from, gpus=0)
    await ranks.start()
    return ranks


async def saved_and_resumed(told: Settings, folder: Path) -> dict[str, Any]:
    ranks = await started(told)
    first = await ranks.step(backend_cases.batch(0), 1e-3)
    await ranks.snapshot()
    digests, second = await asyncio.gather(ranks.write(folder), ranks.step(backend_cases.batch(1), 1e-3))
    scores = await ranks.logprobs(backend_cases.batch(0))
    ranks.close()

    again = await started(told, folder)
    resumed = await again.step(backend_cases.batch(1), 1e-3)
    weights = ray.get(await again.weights(5))
    rescored = await again.logprobs(backend_cases.batch(0))
    again.close()
    return locals()


async def stepped_without(told: Settings, number: signal.Signals, timeout_s: float) -> None:
    """Send rank 1 a signal and ask for a step."""
    ranks = await started(told)
    ranks.timeout_s = timeout_s
    try:
        os.kill(ranks.pids[1], number)
        await ranks.step(backend_cases.batch(0), 1e-3)
    finally:
        ranks.close()


@on_ray
def test_a_checkpoint_is_written_beside_a_step_and_resumed_from(policy_folder: Path, tmp_path: Path) -> None:
    found = asyncio.run(saved_and_resumed(settings(policy_folder, ranks=2), tmp_path / "checkpoint"))

    assert found["resumed"] == found["second"] != found["first"]
    assert found["rescored"] == found["scores"]
    assert {f"model/model-0000{rank}-of-00002.safetensors" for rank in (1, 2)} < found["digests"].keys()
    assert "lm_head.weight" in found["weights"]


@on_ray
def test_a_rank_that_dies_is_named(policy_folder: Path) -> None:
    with pytest.raises(WorkerLost, match="rank 1 of the policy on train1 died"):
        asyncio.run(stepped_without(settings(policy_folder, ranks=2), signal.SIGKILL, 120.0))


@on_ray
def test_a_rank_that_keeps_silent_is_named(policy_folder: Path) -> None:
    with pytest.raises(WorkerLost, match=r"rank 1 of the policy on train1 did not answer within 8 s, asked for step"):
        asyncio.run(stepped_without(settings(policy_folder, ranks=2), signal.SIGSTOP, 8.0))
