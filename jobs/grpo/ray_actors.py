"""Workers as Ray actors: a handle with a name, calls with a deadline, and errors that say which worker it was."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.grpo.workers import WorkerLost
from orchestrator.errors import OrchestratorError


@dataclass(frozen=True)
class Actor:
    """A worker's handle, and its name in errors: ``the engine on train2``."""

    handle: Any
    name: str

    async def call(self, timeout_s: float, method: str, *arguments: Any) -> Any:
        """Return what a method of the worker returns.

        Raises:
            WorkerLost: The worker died.
            TimeoutError: It did not answer in time.
        """
        return await self.answer(timeout_s, getattr(self.handle, method).remote(*arguments))

    async def answer(self, timeout_s: float, reference: Any) -> Any:
        """Return what a call that was made already returns. Raises as ``call`` does."""
        from ray.exceptions import RayError

        try:
            async with asyncio.timeout(timeout_s):
                return await reference
        except RayError as error:
            raise translated(self.name, error) from error


async def call_all(actors: Sequence[Actor], timeout_s: float, method: str, *arguments: Any) -> list[Any]:
    """Call a method of all workers at once and return their answers; the first error ends the wait for the others."""
    return list(await asyncio.gather(*(actor.call(timeout_s, method, *arguments) for actor in actors)))


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
