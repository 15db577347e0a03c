"""Engines as Ray actors: one for every GPU of the role, or every node without, each with a copy of the model.

The Ray is the role's own, set up as the trainer's is: rank 0 runs the driver, the other nodes join it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from eval.engines import build
from eval.engines.pool import EngineLost
from eval.generation import Answer, Inbox, Question
from eval.settings import Settings
from jobs.grpo.cluster import Cluster, resource
from jobs.grpo.ray_actors import Actor, translated
from jobs.grpo.workers import WorkerLost
from orchestrator.errors import InputError

STOP_S = 30.0
CALLS = 4
"""Of an actor at a time: answering, and being fed and stopped meanwhile."""


class RayWorker:
    """A handle on an engine in another process."""

    def __init__(self, actor: Actor, room: int, about: Mapping[str, Any]) -> None:
        self._actor = actor
        self._round = 0
        self.name = actor.name
        self.room = room
        self.about = about

    async def answers(self) -> AsyncIterator[Answer]:
        """Yield answers to what is fed from now on, as they end."""
        from ray.exceptions import RayError

        try:
            async for reference in self._actor.handle.answers.options(num_returns="streaming").remote(self._round):
                yield await reference
        except RayError as error:
            raise _lost(self.name, error) from error

    def feed(self, questions: Sequence[Question]) -> None:
        """Hand over questions. That the actor died is told by ``answers``."""
        self._actor.handle.feed.remote(self._round, list(questions))

    async def stop(self) -> None:
        """Make the engine drop what it has. One that is dead has nothing."""
        from ray.exceptions import RayError

        round_, self._round = self._round, self._round + 1
        with suppress(RayError, TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._actor.handle.stop.remote(round_)

    def close(self) -> None:
        """End the process, which frees the GPU's memory."""
        import ray

        ray.kill(self._actor.handle)


def count(settings: Settings, nodes: Cluster, models: int) -> int:
    """Return how many engines are wanted side by side; 0 is one in this process.

    Args:
        settings: Of the role.
        nodes: Of the role.
        models: How many are evaluated one after the other: vLLM gives a GPU's memory back only when its
            process ends.

    Raises:
        InputError: The nodes' GPUs are not whole copies of the model.
    """
    per_node = max(1, nodes.gpus_per_node)
    if nodes.gpus_per_node and settings.engine == "vllm":
        wanted = settings.vllm.tensor_parallel
        if per_node % wanted:
            raise InputError(
                f"vllm.tensor_parallel: {wanted} does not divide the {per_node} GPU(s) of a node. Change one of them."
            )
        per_node //= wanted
    if settings.workers is not None:
        if settings.workers == 0 and len(nodes.hosts) > 1:
            raise InputError(
                f"workers: 0 uses one of the role's {len(nodes.hosts)} nodes. Leave it out, or set nodes: 1."
            )
        return settings.workers
    every = len(nodes.hosts) * per_node
    alone = every == 1 and (settings.engine == "hf" or models == 1)
    return 0 if alone else every


async def start(settings: Settings, model: str, nodes: Cluster, workers: int) -> list[RayWorker]:
    """Return the engines when all have loaded the model. Ray runs already.

    Raises:
        EngineLost: One of them died while it started.
        InputError: They cannot be what the settings say.
        TimeoutError: They have not loaded it in time.
    """
    actors = [_actor(settings, model, nodes, index, workers) for index in range(workers)]
    try:
        told = await asyncio.gather(*(actor.call(settings.start_timeout_s, "tell") for actor in actors))
    except WorkerLost as error:
        raise EngineLost(str(error)) from error
    return [RayWorker(actor, room, about) for actor, (room, about) in zip(actors, told, strict=True)]


def _actor(settings: Settings, model: str, nodes: Cluster, index: int, workers: int) -> Actor:
    import ray

    # Neighbours share a node, so that a node's memory reads a model's files once.
    rank = index * len(nodes.hosts) // workers
    options = {
        "num_cpus": 0,
        "num_gpus": _gpus(settings, nodes),
        "resources": {resource(rank): 0.001},
        # What it was given is the driver's to give to others, and one restart budget is enough, the supervisor's.
        "max_restarts": 0,
        "max_concurrency": CALLS,
    }
    handle = ray.remote(EngineActor).options(**options).remote(settings, model)
    return Actor(handle, f"engine {index} on {nodes.hosts[rank]}")


def _gpus(settings: Settings, nodes: Cluster) -> int:
    if not nodes.gpus_per_node:
        return 0
    return settings.vllm.tensor_parallel if settings.engine == "vllm" else 1


def _lost(name: str, error: Exception) -> Exception:
    found = translated(name, error)
    return EngineLost(str(found)) if isinstance(found, WorkerLost) else found


class EngineActor:
    """An engine in a process of its own. Its methods are called side by side, in threads."""

    def __init__(self, settings: Settings, model: str) -> None:
        self._engine = build(settings, model)
        # One for each round, so that what comes late is not taken for the next round's.
        self._inboxes: dict[int, Inbox] = {}
        self._changing = threading.Lock()
        self._answering = threading.Lock()

    def tell(self) -> tuple[int, Mapping[str, Any]]:
        """Return the room and what there is to say of the engine."""
        return self._engine.room, self._engine.about

    def feed(self, round_: int, questions: Sequence[Question]) -> None:
        """Take questions."""
        self._inbox(round_).put(questions)

    def answers(self, round_: int) -> Iterator[Answer]:
        """Yield answers to what is fed in a round, as they end, until it is stopped."""
        inbox = self._inbox(round_)
        ended: queue.SimpleQueue[Answer | Exception | None] = queue.SimpleQueue()

        def run() -> None:
            try:
                with self._answering:
                    self._engine.answer(inbox, ended.put)
                ended.put(None)
            except Exception as error:  # noqa: BLE001 - raised again by who reads the answers
                ended.put(error)

        threading.Thread(target=run, name="engine", daemon=True).start()
        while (item := ended.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def stop(self, round_: int) -> None:
        """Drop everything of a round. The next one begins when the engine has done so."""
        self._inbox(round_).stop()

    def _inbox(self, round_: int) -> Inbox:
        with self._changing:
            return self._inboxes.setdefault(round_, Inbox())
