"""Engines and policy as Ray actors: an engine for every GPU of the role, or every node without, and the policy's ranks.

Sampling, judging and updating are separate processes. Weights travel through the object store; images as encoded
files. This module is imported by the driver, which needs no model.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.entry import Context
from jobs.grpo import cluster
from jobs.grpo.checkpoint import Digest
from jobs.grpo.cluster import Cluster, resource
from jobs.grpo.policy_ranks import PolicyRanks
from jobs.grpo.ray_actors import Actor, call_all, translated
from jobs.grpo.ray_session import RaySession
from jobs.grpo.rollout import Request, Sample, TrainingRow
from jobs.grpo.settings import Settings
from jobs.grpo.workers import build_engine, require_same, source

if TYPE_CHECKING:
    from torch import Tensor

GPU_SHARE = 0.5
"""An engine and a rank of the policy share a GPU."""


class RayWorkers:
    """Engines and policy on a Ray of this role's own."""

    def __init__(self, settings: Settings, session: RaySession, engines: Sequence[Actor], policy: PolicyRanks) -> None:
        self._settings = settings
        self._session = session
        self._engines = engines
        self._policy = policy

    @classmethod
    async def start(cls, context: Context, settings: Settings, resume_from: Path | None) -> RayWorkers:
        """Start Ray, join its nodes, load the model everywhere."""
        nodes = cluster.own(context)
        session = await RaySession.start(context, nodes)
        try:
            # Those of the other nodes wait until their node has joined; the first node's load meanwhile.
            engines = [_engine(nodes, index, settings, resume_from) for index in range(_engines(nodes))]
            policy = PolicyRanks(settings, nodes, source(settings, resume_from), resume_from, gpus=_share(nodes))
            await session.wait_for_nodes(context, settings.ray_start_timeout_s)
            context.progress.update("starting workers", message="loading the model")
            await asyncio.gather(call_all(engines, settings.policy.timeout_s, "pid"), policy.start())
        except BaseException:
            session.close()
            raise
        return cls(settings, session, engines, policy)

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Sample]:
        shares = split(requests, len(self._engines))
        streams = [_stream(*pair) for pair in zip(self._engines, shares, strict=True)]
        async for sample in merged(streams):
            yield sample

    async def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        if self._settings.engine.sleep:
            await self._of_engines("sleep")
        return await self._policy.step(rows, learning_rate)

    async def logprobs(self, rows: Sequence[TrainingRow], *, reference: bool = False) -> list[tuple[float, ...]]:
        return await self._policy.logprobs(rows, reference=reference)

    async def sync(self, version: int, probe: TrainingRow | None) -> None:
        if self._settings.engine.sleep:
            await self._of_engines("wake")
        await self._of_engines("load_weights", await self._policy.weights(version), version)
        if probe is not None:
            own, engines = await asyncio.gather(self._policy.logprobs([probe]), self._of_engines("logprobs", [probe]))
            require_same(self._settings, [found for (found,) in engines], own[0], version)

    async def snapshot(self) -> None:
        await self._policy.snapshot()

    async def write(self, folder: Path) -> dict[str, Digest]:
        return await self._policy.write(folder)

    def close(self) -> None:
        self._session.close()

    async def _of_engines(self, method: str, *arguments: Any) -> list[Any]:
        return await call_all(self._engines, self._settings.policy.timeout_s, method, *arguments)


async def _stream(engine: Actor, requests: Sequence[Request]) -> AsyncIterator[Sample]:
    from ray.exceptions import RayError

    if not requests:
        return
    try:
        async for reference in engine.handle.generate.options(num_returns="streaming").remote(list(requests)):
            yield await reference
    except RayError as error:
        raise translated(engine.name, error) from error


def _engines(nodes: Cluster) -> int:
    return len(nodes.hosts) * max(1, nodes.gpus_per_node)


def _share(nodes: Cluster) -> float:
    return GPU_SHARE if nodes.gpus_per_node else 0


def _engine(nodes: Cluster, index: int, settings: Settings, resume_from: Path | None) -> Actor:
    import ray

    rank = index // max(1, nodes.gpus_per_node)
    # One restart budget for the whole role, kept by the supervisor: an actor that came back by
    # itself would have lost its weights.
    options = {
        "num_cpus": 0,
        "num_gpus": _share(nodes),
        "resources": {resource(rank): 0.001},
        "max_restarts": 0,
    }
    handle = ray.remote(EngineActor).options(name=f"engine{index}", **options).remote(settings, resume_from)
    return Actor(handle, f"the engine on {nodes.hosts[rank]}")


def split(requests: Sequence[Request], parts: int) -> list[Sequence[Request]]:
    """Return the requests in as many shares, equal but for one, neighbours together.

    Neighbours have the same prompt, whose images are then encoded on one node only.

    >>> split("abcde", 2)
    ['ab', 'cde']
    """
    borders = [len(requests) * part // parts for part in range(parts + 1)]
    return [requests[begin:end] for begin, end in pairwise(borders)]


async def merged(streams: Sequence[AsyncIterator[Sample]]) -> AsyncIterator[Sample]:
    """Yield what any of the streams yields, as it comes; the first error of one ends all."""
    items: asyncio.Queue[Sample | None] = asyncio.Queue()

    async def pump(stream: AsyncIterator[Sample]) -> None:
        async for item in stream:
            items.put_nowait(item)

    tasks = [asyncio.create_task(pump(stream)) for stream in streams]
    everything = asyncio.gather(*tasks)
    everything.add_done_callback(lambda _: items.put_nowait(None))
    try:
        while (item := await items.get()) is not None:
            yield item
        await everything
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, everything, return_exceptions=True)


class EngineActor:
    """The engine in a process of its own."""

    def __init__(self, settings: Settings, resume_from: Path | None) -> None:
        self._engine = build_engine(settings, resume_from)

    def pid(self) -> int:
        return os.getpid()

    def generate(self, requests: Sequence[Request]) -> Iterator[Sample]:
        yield from self._engine.generate(requests)

    def load_weights(self, weights: dict[str, Tensor], version: int) -> None:
        self._engine.load_weights(weights, version)

    def logprobs(self, rows: Sequence[TrainingRow]) -> list[tuple[float, ...]]:
        return self._engine.logprobs(rows)

    def sleep(self) -> None:
        self._engine.sleep()

    def wake(self) -> None:
        self._engine.wake()
