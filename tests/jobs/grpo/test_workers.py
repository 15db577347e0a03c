"""What the driver does with several workers, without Ray's help."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from jobs.grpo.ray_actors import translated
from jobs.grpo.ray_workers import merged, split
from jobs.grpo.workers import WorkerLost
from orchestrator.errors import InputError


@pytest.mark.parametrize(
    ("count", "parts", "sizes"),
    [
        pytest.param(6, 3, [2, 2, 2], id="even"),
        pytest.param(7, 2, [3, 4], id="odd"),
        pytest.param(1, 3, [0, 0, 1], id="fewer requests than engines"),
        pytest.param(4, 1, [4], id="one engine"),
    ],
)
def test_every_request_goes_to_one_engine(count: int, parts: int, sizes: list[int]) -> None:
    shares = split(range(count), parts)  # type: ignore[arg-type]

    assert [len(share) for share in shares] == sizes
    assert [request for share in shares for request in share] == list(range(count))


async def counting(*items: int, pause_s: float, fail: bool = False) -> AsyncIterator[int]:
    for item in items:
        await asyncio.sleep(pause_s)
        yield item
    if fail:
        raise WorkerLost("gone")


def collected(*streams: AsyncIterator[int]) -> list[int]:
    async def collect() -> list[int]:
        return [item async for item in merged(streams)]  # type: ignore[arg-type, misc]

    return asyncio.run(collect())


def test_responses_come_in_the_order_in_which_they_end() -> None:
    assert collected(counting(1, 2, pause_s=1.0), counting(10, 20, 30, pause_s=0.03)) == [10, 20, 30, 1, 2]


def test_the_loss_of_one_engine_ends_the_step() -> None:
    with pytest.raises(WorkerLost):
        collected(counting(1, pause_s=0.01, fail=True), counting(2, pause_s=60.0))


def test_a_users_error_on_a_worker_is_that_error() -> None:
    cause = InputError("max_prompt_tokens: too long")
    error = RayTaskError("step", "Traceback ...", cause).as_instanceof_cause()

    assert translated("the policy on train1", error) is cause


def test_a_dead_worker_is_named_in_one_line() -> None:
    lost = translated("the engine on train2", ActorDiedError())

    assert isinstance(lost, WorkerLost)
    assert str(lost).splitlines()[0] == (
        "Ray worker: the engine on train2 died: The actor died unexpectedly before finishing this task."
    )
