"""Engines and policy behind one interface: as Ray actors, or in this process.

On Ray each is an actor of its own, so that sampling, judging and updating are separate processes
that can sit on different GPUs and nodes: an engine on every node, the policy on the first. Weights
travel through the object store; images as encoded files. This module is imported by the driver,
which needs neither transformers nor a model: those are imported where an engine or policy is built.
"""

from __future__ import annotations

import asyncio
import os
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jobs.entry import Context
from jobs.grpo import cluster
from jobs.grpo.checkpoint import MODEL_FOLDER
from jobs.grpo.cluster import Cluster, resource
from jobs.grpo.ray_session import RaySession
from jobs.grpo.rollout import Request, Sample, TrainingRow
from jobs.grpo.settings import Settings
from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from torch import Tensor

    from jobs.grpo.engine import HfEngine
    from jobs.grpo.policy import TorchPolicy


class WorkerLost(OrchestratorError):
    """A worker process died. The role has to start again from the last checkpoint."""


class Workers(Protocol):
    """Engines and a policy that hold the same weights after every ``sync``."""

    def generate(self, requests: Sequence[Request]) -> AsyncIterator[Sample]:
        """Yield the responses in the order in which they end."""
        ...

    async def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        """Update the policy on one batch and return its metrics."""
        ...

    async def sync(self, version: int) -> None:
        """Give every engine the policy's weights."""
        ...

    async def save(self, folder: Path) -> None:
        """Write the policy's part of a checkpoint."""
        ...

    def close(self) -> None:
        """Release every process. Safe to call twice."""
        ...


async def start(context: Context, settings: Settings, resume_from: Path | None) -> Workers:
    """Return running workers that start from the settings' model, or from a verified checkpoint.

    Args:
        context: Of the role; says which nodes it has.
        settings: Of the role.
        resume_from: A checkpoint's folder, or None.

    Raises:
        RunFailed: Not every node of the role has joined in time.
        WorkerLost: A worker died while it started.
    """
    source = settings.model if resume_from is None else str(resume_from / MODEL_FOLDER)
    if settings.ray:
        return await RayWorkers.start(context, settings, source, resume_from)
    return await LocalWorkers.start(settings, source, resume_from)


def _engine(settings: Settings, source: str) -> HfEngine:
    from jobs.grpo.engine import HfEngine

    engine = settings.engine
    return HfEngine(
        source,
        dtype=settings.policy.dtype,
        temperature=engine.temperature,
        max_new_tokens=engine.max_new_tokens,
        batch=engine.batch,
        max_prompt_tokens=settings.max_prompt_tokens,
    )


def _policy(settings: Settings, source: str, resume_from: Path | None) -> TorchPolicy:
    from jobs.grpo.policy import TorchPolicy

    policy = TorchPolicy(settings, source)
    if resume_from is not None:
        policy.load_optimizer(resume_from)
    return policy


class LocalWorkers:
    """Both in this process, one thread each. For debugging, and for a machine without Ray."""

    def __init__(self, settings: Settings, engine: HfEngine, policy: TorchPolicy) -> None:
        self._settings = settings
        self._engine = engine
        self._policy = policy
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="workers")

    @classmethod
    async def start(cls, settings: Settings, source: str, resume_from: Path | None) -> LocalWorkers:
        return cls(settings, _engine(settings, source), _policy(settings, source, resume_from))

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Sample]:
        async for sample in _from_thread(self._threads, lambda: self._engine.generate(requests)):
            yield sample

    async def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        return await self._call(self._settings.policy.timeout_s, self._policy.step, rows, learning_rate)

    async def sync(self, version: int) -> None:
        self._engine.load_weights(self._policy.weights(), version)

    async def save(self, folder: Path) -> None:
        await self._call(self._settings.policy.timeout_s, self._policy.save, folder)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, timeout_s: float, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            return await loop.run_in_executor(self._threads, function, *arguments)


async def _from_thread(threads: ThreadPoolExecutor, source: Callable[[], Iterator[Sample]]) -> AsyncIterator[Sample]:
    items: queue.Queue[Sample | None] = queue.Queue()

    def pump() -> None:
        try:
            for item in source():
                items.put(item)
        finally:
            items.put(None)

    loop = asyncio.get_running_loop()
    pumping = loop.run_in_executor(threads, pump)
    while (item := await loop.run_in_executor(threads, items.get)) is not None:
        yield item
    await pumping


@dataclass(frozen=True)
class Actor:
    """A worker's handle, and its name in errors: ``the engine on train2``."""

    handle: Any
    name: str


class RayWorkers:
    """An engine on every node and a policy on the first, on a Ray of this role's own."""

    def __init__(self, settings: Settings, session: RaySession, engines: Sequence[Actor], policy: Actor) -> None:
        self._settings = settings
        self._session = session
        self._engines = engines
        self._policy = policy

    @classmethod
    async def start(cls, context: Context, settings: Settings, source: str, resume_from: Path | None) -> RayWorkers:
        nodes = cluster.own(context)
        session = await RaySession.start(context, nodes)
        try:
            # Those of the other nodes wait until their node has joined; the first node's load meanwhile.
            engines = [_actor(EngineActor, "engine", nodes, rank, settings, source) for rank in range(len(nodes.hosts))]
            policy = _actor(PolicyActor, "policy", nodes, 0, settings, source, resume_from)
            started = cls(settings, session, engines, policy)
            await session.wait_for_nodes(context, settings.ray_start_timeout_s)
            context.progress.update("starting workers", message="loading the model")
            await asyncio.gather(
                *(started._within(settings.policy.timeout_s, actor, "pid") for actor in (*engines, policy))
            )
        except BaseException:
            session.close()
            raise
        return started

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Sample]:
        shares = split(requests, len(self._engines))
        streams = [self._stream(*pair) for pair in zip(self._engines, shares, strict=True)]
        async for sample in merged(streams):
            yield sample

    async def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        timeout_s = self._settings.policy.timeout_s
        metrics: dict[str, float] = await self._within(timeout_s, self._policy, "step", list(rows), learning_rate)
        return metrics

    async def sync(self, version: int) -> None:
        weights = self._policy.handle.weights.remote()
        timeout_s = self._settings.policy.timeout_s
        await asyncio.gather(
            *(self._within(timeout_s, engine, "load_weights", weights, version) for engine in self._engines)
        )

    async def save(self, folder: Path) -> None:
        await self._within(self._settings.policy.timeout_s, self._policy, "save", folder)

    def close(self) -> None:
        self._session.close()

    async def _stream(self, engine: Actor, requests: Sequence[Request]) -> AsyncIterator[Sample]:
        from ray.exceptions import RayError

        if not requests:
            return
        try:
            async for reference in engine.handle.generate.options(num_returns="streaming").remote(list(requests)):
                yield await reference
        except RayError as error:
            raise translated(engine.name, error) from error

    async def _within(self, timeout_s: float, actor: Actor, method: str, *arguments: Any) -> Any:
        from ray.exceptions import RayError

        try:
            async with asyncio.timeout(timeout_s):
                return await getattr(actor.handle, method).remote(*arguments)
        except RayError as error:
            raise translated(actor.name, error) from error


def _actor(kind: type, name: str, nodes: Cluster, rank: int, *arguments: Any) -> Actor:
    import ray

    # An engine and the policy share the first node's only GPU, or take one each.
    gpus = min(1.0, nodes.gpus_per_node / 2) if rank == 0 else min(1.0, nodes.gpus_per_node)
    # One restart budget for the whole role, kept by the supervisor: an actor that came back by
    # itself would have lost the optimiser.
    options = {"num_cpus": 0, "num_gpus": gpus, "resources": {resource(rank): 0.01}, "max_restarts": 0}
    handle = ray.remote(kind).options(name=f"{name}{rank}", **options).remote(*arguments)
    return Actor(handle, f"the {name} on {nodes.hosts[rank]}")


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


def translated(name: str, error: Exception) -> Exception:
    """Return what a failure on Ray means: a user's error as it was raised, or a lost worker.

    Args:
        name: The worker's name, as in ``Actor``.
        error: A ``RayError``.
    """
    from ray.exceptions import ActorDiedError, RayTaskError

    cause = getattr(error, "cause", None)
    if isinstance(error, RayTaskError):
        return cause if isinstance(cause, OrchestratorError) else error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, ActorDiedError) and error.actor_init_failed:
        return WorkerLost(f"Ray worker: {name} could not start: {lines[-1]}\n{error}")
    # Ray's last line says how it died; before it come class, id and address of the actor.
    return WorkerLost(f"Ray worker: {name} died: {lines[-1] if lines else type(error).__name__}\n{error}")


class EngineActor:
    """The engine in a process of its own."""

    def __init__(self, settings: Settings, source: str) -> None:
        self._engine = _engine(settings, source)

    def pid(self) -> int:
        return os.getpid()

    def generate(self, requests: Sequence[Request]) -> Iterator[Sample]:
        yield from self._engine.generate(requests)

    def load_weights(self, weights: dict[str, Tensor], version: int) -> None:
        self._engine.load_weights(weights, version)


class PolicyActor:
    """The policy in a process of its own."""

    def __init__(self, settings: Settings, source: str, resume_from: Path | None) -> None:
        self._policy = _policy(settings, source, resume_from)

    def pid(self) -> int:
        return os.getpid()

    def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        return self._policy.step(rows, learning_rate)

    def weights(self) -> dict[str, Tensor]:
        return self._policy.weights()

    def save(self, folder: Path) -> None:
        self._policy.save(folder)
