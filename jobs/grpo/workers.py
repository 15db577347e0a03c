"""Engine and policy behind one interface: as Ray actors, or in this process.

On Ray each is an actor of its own, so that sampling, judging and updating are separate processes
that can sit on different GPUs. Weights travel through the object store; images as encoded files.
"""

from __future__ import annotations

import asyncio
import os
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from jobs.grpo.engine import HfEngine
from jobs.grpo.policy import MODEL_FOLDER, TorchPolicy
from jobs.grpo.ray_session import RaySession
from jobs.grpo.rollout import Request, Sample, TrainingRow
from jobs.grpo.settings import Settings
from orchestrator.errors import OrchestratorError


class WorkerLost(OrchestratorError):
    """A worker process died. The role has to start again from the last checkpoint."""


class Workers(Protocol):
    """An engine and a policy that hold the same weights after every ``sync``."""

    def generate(self, requests: Sequence[Request]) -> AsyncIterator[Sample]:
        """Yield the responses in the order in which they end."""
        ...

    async def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        """Update the policy on one batch and return its metrics."""
        ...

    async def sync(self, version: int) -> None:
        """Give the engine the policy's weights."""
        ...

    async def save(self, folder: Path) -> None:
        """Write the policy's part of a checkpoint."""
        ...

    def close(self) -> None:
        """Release every process. Safe to call twice."""
        ...


async def start(settings: Settings, model: str, resume_from: Path | None, folder: Path, gpus: int) -> Workers:
    """Return running workers that start from ``model``, or from a verified checkpoint.

    Args:
        settings: Of the role.
        model: The start model.
        resume_from: A checkpoint's folder, or None.
        folder: Where workers may keep private files.
        gpus: GPUs of the role. Engine and policy share one if there is only one.
    """
    source = model if resume_from is None else str(resume_from / MODEL_FOLDER)
    if settings.ray:
        return await RayWorkers.start(settings, source, resume_from, folder, gpus)
    return await LocalWorkers.start(settings, source, resume_from)


def _engine(settings: Settings, source: str) -> HfEngine:
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


class RayWorkers:
    """One engine actor and one policy actor on a Ray of this role's own."""

    def __init__(self, settings: Settings, session: RaySession, engine: Any, policy: Any) -> None:
        self._settings = settings
        self._session = session
        self._engine = engine
        self._policy = policy

    @classmethod
    async def start(
        cls, settings: Settings, source: str, resume_from: Path | None, folder: Path, gpus: int
    ) -> RayWorkers:
        session = RaySession.start(folder, cpus=max(2, os.cpu_count() or 2), gpus=gpus)
        import ray

        # One restart budget for the whole role, kept by the supervisor: an actor that came back by
        # itself would have lost the optimiser.
        share = {"num_cpus": 1, "num_gpus": min(1.0, gpus / 2), "max_restarts": 0}
        engine = ray.remote(EngineActor).options(name="engine", **share).remote(settings, source)
        policy = ray.remote(PolicyActor).options(name="policy", **share).remote(settings, source, resume_from)
        workers = cls(settings, session, engine, policy)
        await workers._within(settings.policy.timeout_s, asyncio.gather(engine.pid.remote(), policy.pid.remote()))
        return workers

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Sample]:
        from ray.exceptions import RayActorError

        try:
            async for reference in self._engine.generate.options(num_returns="streaming").remote(list(requests)):
                yield await reference
        except RayActorError as error:
            raise _lost(error) from error

    async def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        result = self._policy.step.remote(list(rows), learning_rate)
        metrics: dict[str, float] = await self._within(self._settings.policy.timeout_s, result)
        return metrics

    async def sync(self, version: int) -> None:
        weights = self._policy.weights.remote()
        await self._within(self._settings.policy.timeout_s, self._engine.load_weights.remote(weights, version))

    async def save(self, folder: Path) -> None:
        await self._within(self._settings.policy.timeout_s, self._policy.save.remote(folder))

    def close(self) -> None:
        self._session.close()

    async def _within(self, timeout_s: float, awaitable: Any) -> Any:
        from ray.exceptions import RayActorError

        try:
            async with asyncio.timeout(timeout_s):
                return await awaitable
        except RayActorError as error:
            raise _lost(error) from error


def _lost(error: BaseException) -> WorkerLost:
    return WorkerLost(f"Ray worker: {str(error).strip()}")


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
