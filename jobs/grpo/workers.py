"""Engines and policy behind one interface; here both in this process, in ``ray_workers`` as Ray actors.

This module is imported by the driver, which needs neither transformers nor a model: those are imported where an
engine or a policy is built.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jobs.entry import Context
from jobs.grpo.checkpoint import MODEL_FOLDER, Digest
from jobs.grpo.rollout import Request, Sample, TrainingRow
from jobs.grpo.settings import Settings
from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from jobs.grpo.engines import Engine
    from jobs.grpo.policy import Policy


class WorkerLost(OrchestratorError):
    """A worker process died. The role has to start again from the last checkpoint."""


class Workers(Protocol):
    """Engines and a policy that hold the same weights after every ``sync``."""

    def generate(self, requests: Sequence[Request]) -> AsyncIterator[Sample]:
        """Yield the responses in the order in which they end."""
        ...

    async def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        """Update the policy on one batch and return its metrics. Engines may sample meanwhile."""
        ...

    async def logprobs(self, rows: Sequence[TrainingRow], *, reference: bool = False) -> list[tuple[float, ...]]:
        """Return the policy's log-probability of every token of every row, or the start model's."""
        ...

    async def sync(self, version: int, probe: TrainingRow | None) -> None:
        """Give every engine the policy's weights.

        Args:
            version: What engines write into every sample from now on.
            probe: A row that every engine and the policy must then find equally probable; None tries none.

        Raises:
            WeightsDiffer: They do not.
        """
        ...

    async def snapshot(self) -> None:
        """Copy the policy's part of a checkpoint in memory."""
        ...

    async def write(self, folder: Path) -> dict[str, Digest]:
        """Write the last snapshot, whatever goes on beside it; return each file's digest by its path in ``folder``."""
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
    if settings.ray:
        from jobs.grpo.ray_workers import RayWorkers

        return await RayWorkers.start(context, settings, resume_from)
    return await LocalWorkers.start(settings, resume_from)


def source(settings: Settings, resume_from: Path | None) -> str:
    """Return the folder of the weights to start with."""
    return settings.model if resume_from is None else str(resume_from / MODEL_FOLDER)


def build_engine(settings: Settings, resume_from: Path | None) -> Engine:
    """Return an engine in this process, whose samples say from the first which weights they are of."""
    from jobs.grpo import engines

    engine = engines.build(settings, source(settings, resume_from))
    if resume_from is not None:
        # Not before the engine, which makes transformers importable beside a CPU build of torch.
        from jobs.grpo import policy_files

        engine.version = policy_files.version(resume_from)
    return engine


def require_same(settings: Settings, engines: Sequence[Sequence[float]], policy: Sequence[float], version: int) -> None:
    """Raise WeightsDiffer unless each engine finds the probe's tokens as probable as the policy does.

    Args:
        settings: Of the role.
        engines: Each engine's log-probability of every token.
        policy: The policy's.
        version: Of the weights they should have.
    """
    from jobs.grpo.policy import WeightsDiffer, tolerance

    for index, found in enumerate(engines):
        difference = sum(abs(a - b) for a, b in zip(found, policy, strict=True)) / len(policy)
        if not difference <= tolerance(settings):
            raise WeightsDiffer(
                f"weight sync: given the weights of step {version}, engine {index} and the policy differ by "
                f"{difference:.4g} a token on one response; tolerance {tolerance(settings):g}. "
                "The engine does not have these weights."
            )


class LocalWorkers:
    """Both in this process, one thread each. For debugging, and for a machine without Ray."""

    def __init__(self, settings: Settings, engine: Engine, policy: Policy) -> None:
        self._settings = settings
        self._engine = engine
        self._policy = policy
        # Sampling takes two; the policy's steps and the writing of its snapshots one each.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="workers")

    @classmethod
    async def start(cls, settings: Settings, resume_from: Path | None) -> LocalWorkers:
        from jobs.grpo.policy import Policy

        policy = Policy(settings, source(settings, resume_from))
        if resume_from is not None:
            policy.load(resume_from)
        return cls(settings, build_engine(settings, resume_from), policy)

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Sample]:
        async for sample in _from_thread(self._threads, lambda: self._engine.generate(requests)):
            yield sample

    async def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        metrics: dict[str, float] = await self._call(self._policy.step, rows, learning_rate)
        return metrics

    async def logprobs(self, rows: Sequence[TrainingRow], *, reference: bool = False) -> list[tuple[float, ...]]:
        found: list[tuple[float, ...]] = await self._call(partial(self._policy.logprobs, rows, reference=reference))
        return found

    async def sync(self, version: int, probe: TrainingRow | None) -> None:
        self._engine.load_weights(await self._call(self._policy.weights, version), version)
        if probe is not None:
            (own,) = await self._call(self._policy.logprobs, [probe])
            require_same(self._settings, await self._call(self._engine.logprobs, [probe]), own, version)

    async def snapshot(self) -> None:
        await self._call(self._policy.snapshot)

    async def write(self, folder: Path) -> dict[str, Digest]:
        digests: dict[str, Digest] = await self._call(self._policy.write, folder)
        return digests

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._settings.policy.timeout_s):
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
