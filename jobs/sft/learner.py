"""What learns: the policy of ``jobs.grpo``, in this process or as ranks on Ray, so that every backend, LoRA and
packing are those of the training that follows.

A reply is a completion with the advantage 1 under CISPO's loss, whose weight is 1 for weights that have not moved
since: ``-log p``, averaged over all reply tokens of a batch, whatever the micro-batches and ranks. The image tokens
that no sampler may emit are left out of the softmax, as they are in training.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from jobs.entry import Context
from jobs.grpo import cluster
from jobs.grpo.checkpoint import Digest
from jobs.grpo.rollout import TrainingRow
from jobs.grpo.settings import Settings as PolicySettings
from jobs.grpo.workers import source
from jobs.sft.settings import Settings

if TYPE_CHECKING:
    from jobs.grpo.policy import Policy
    from jobs.grpo.policy_ranks import PolicyRanks
    from jobs.grpo.ray_session import RaySession


class Learner(Protocol):
    """A policy that takes optimiser steps and can be saved."""

    async def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        """Take one optimiser step and return its metrics."""
        ...

    async def snapshot(self) -> None:
        """Copy weights and moments in memory."""
        ...

    async def write(self, folder: Path) -> dict[str, Digest]:
        """Write the last snapshot; return each file's digest by its path in ``folder``."""
        ...

    def close(self) -> None:
        """Release every process."""
        ...


def policy_settings(settings: Settings) -> PolicySettings:
    """Return the settings under which a policy's step is a step of fine-tuning."""
    assert settings.policy is not None
    return PolicySettings.model_validate(
        {
            "model": settings.model,
            "seed": settings.seed,
            "data": {"path": settings.path},
            "rewards": {"format": 1.0},
            "engine": {"temperature": 1.0, "max_new_tokens": settings.max_tokens},
            # With staleness rows of older weights are no test of an engine, and these are of none.
            "algorithm": {"loss": "cispo", "aggregation": "token_mean", "staleness": 1},
            "policy": settings.policy,
            "ray": settings.ray,
            "ray_start_timeout_s": settings.ray_start_timeout_s,
        }
    )


async def start(context: Context, settings: Settings, resume_from: Path | None) -> Learner:
    """Return a learner with the start model's weights, or those of a verified checkpoint.

    Raises:
        RunFailed: Not every node of the role has joined in time.
        WorkerLost: A rank died while it started.
    """
    wanted = policy_settings(settings)
    if settings.ray:
        return await RayLearner.start(context, wanted, resume_from)
    return await asyncio.to_thread(LocalLearner, wanted, resume_from)


class LocalLearner:
    """The policy in this process."""

    def __init__(self, settings: PolicySettings, resume_from: Path | None) -> None:
        from jobs.grpo.policy import Policy

        self._policy: Policy = Policy(settings, source(settings, resume_from))
        if resume_from is not None:
            self._policy.load(resume_from)

    async def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        return await asyncio.to_thread(self._policy.step, rows, learning_rate)

    async def snapshot(self) -> None:
        await asyncio.to_thread(self._policy.snapshot)

    async def write(self, folder: Path) -> dict[str, Digest]:
        return await asyncio.to_thread(self._policy.write, folder)

    def close(self) -> None:
        """Do nothing: there is no other process."""


class RayLearner:
    """The policy's ranks on a Ray of this role's own."""

    def __init__(self, session: RaySession, ranks: PolicyRanks) -> None:
        self._session = session
        self._ranks = ranks

    @classmethod
    async def start(cls, context: Context, settings: PolicySettings, resume_from: Path | None) -> RayLearner:
        """Start Ray, join its nodes, load the model on every rank."""
        from jobs.grpo.policy_ranks import PolicyRanks
        from jobs.grpo.ray_session import RaySession

        nodes = cluster.own(context)
        session = await RaySession.start(context, nodes)
        try:
            gpus = 1.0 if nodes.gpus_per_node else 0.0
            ranks = PolicyRanks(settings, nodes, source(settings, resume_from), resume_from, gpus=gpus)
            await session.wait_for_nodes(context, settings.ray_start_timeout_s)
            context.progress.update("starting workers", message="loading the model")
            await ranks.start()
        except BaseException:
            session.close()
            raise
        return cls(session, ranks)

    async def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        return await self._ranks.step(rows, learning_rate)

    async def snapshot(self) -> None:
        await self._ranks.snapshot()

    async def write(self, folder: Path) -> dict[str, Digest]:
        return await self._ranks.write(folder)

    def close(self) -> None:
        self._session.close()
