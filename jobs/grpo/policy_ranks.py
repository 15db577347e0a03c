"""All ranks of the policy as Ray actors, spread over the role's nodes; one call here is that call on every rank.

The ranks are reserved together, as one placement group, and meet at a store that rank 0 keeps on a port of the
kernel's choice. One that dies or keeps silent ends the run: the others may wait for it in a collective for ever.
This module is imported by the driver and by Ray's processes; torch and Ray are imported where they are used.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.grpo.checkpoint import Digest
from jobs.grpo.cluster import Cluster, resource
from jobs.grpo.ray_actors import translated
from jobs.grpo.rollout import TrainingRow
from jobs.grpo.settings import Settings
from jobs.grpo.workers import WorkerLost

if TYPE_CHECKING:
    from torch import Tensor

    from jobs.grpo.policy import Policy

GRACE_S = 5.0
"""A rank that dies takes the others' connections with it: so long, its death is waited for after a first complaint."""
WRITING = "writing"
SHARE = 0.001
"""Of a node's own resource, which ties a rank to the node and is never used up."""


def count(settings: Settings, nodes: Cluster) -> int:
    """Return the number of ranks: as told, or one for each GPU, or one."""
    return settings.policy.ranks or max(1, nodes.gpus_per_node * len(nodes.hosts))


def places(ranks: int, nodes: int) -> list[int]:
    """Return the node of each rank: equally many but for one, neighbours together.

    >>> places(4, 2), places(3, 2), places(1, 2)
    ([0, 0, 1, 1], [0, 0, 1], [0])
    """
    return [rank * nodes // ranks for rank in range(ranks)]


class PolicyRanks:
    """The policy. Its methods are ``jobs.grpo.policy.Policy``'s, each within ``policy.timeout_s``.

    All of them raise WorkerLost if a rank dies or does not answer in time, naming rank and host, and what the policy
    raises otherwise.

    Attributes:
        timeout_s: Longest time a call may take.
        pids: Process ids by rank, once started.
    """

    def __init__(
        self, settings: Settings, nodes: Cluster, source: str, resume_from: Path | None, *, gpus: float
    ) -> None:
        """Ask Ray for the ranks and return at once. Those of nodes that have not joined wait.

        Args:
            settings: Of the role.
            nodes: Of the role.
            source: Folder or name of the weights to start with.
            resume_from: A verified checkpoint to continue from, or None.
            gpus: Of each rank; a fraction where an engine shares them.
        """
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self.timeout_s = settings.policy.timeout_s
        on = places(count(settings, nodes), len(nodes.hosts))
        self.pids: list[int] = []
        self._names = [f"rank {rank} of the policy on {nodes.hosts[node]}" for rank, node in enumerate(on)]
        bundles = [{resource(node): SHARE} | ({"GPU": gpus} if gpus else {}) for node in on]
        self._group = placement_group(bundles, strategy="PACK")
        kind = ray.remote(concurrency_groups={WRITING: 1})(RankActor)
        self._actors = [
            kind.options(
                name=f"policy{rank}",
                num_cpus=0,
                num_gpus=gpus,
                # One restart budget for the whole role: an actor that came back by itself would have lost the
                # optimiser.
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank),
            ).remote(settings, source, resume_from, rank, len(on))
            for rank in range(len(on))
        ]

    async def start(self) -> None:
        """Let the ranks meet and load the model; return when all have."""
        (meeting,) = await self._gathered([self._actors[0].meeting.remote()], "start")
        self.pids = await self._gathered([actor.start.remote(meeting) for actor in self._actors], "start")

    async def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        """Take the optimiser steps of one batch and return their metrics."""
        given = self._given(rows)
        metrics: dict[str, float]
        metrics, *_ = await self._gathered([a.step.remote(given, learning_rate) for a in self._actors], "step")
        return metrics

    async def logprobs(self, rows: Sequence[TrainingRow], *, reference: bool = False) -> list[tuple[float, ...]]:
        """Return the log-probability of every token of every row, by the policy or the start model."""
        given = self._given(rows)
        found: list[tuple[float, ...]]
        found, *_ = await self._gathered([a.logprobs.remote(given, reference) for a in self._actors], "logprobs")
        return found

    async def weights(self, version: int) -> Any:
        """Return a reference to all weights, for an actor that calls an engine's ``load_weights``.

        They lie on rank 0's node and never come to the driver.

        Args:
            version: What engines are going to call them.
        """
        pairs = [actor.weights.options(num_returns=2).remote(version) for actor in self._actors]
        await self._gathered([done for done, _ in pairs], "weights")
        return pairs[0][1]

    async def snapshot(self) -> None:
        """Copy weights and moments to the ranks' memory, for ``write``."""
        await self._gathered([actor.snapshot.remote() for actor in self._actors], "snapshot")

    async def write(self, folder: Path) -> dict[str, Digest]:
        """Write the last snapshot below a folder that all nodes see, beside whatever else goes on."""
        calls = [actor.write.options(concurrency_group=WRITING).remote(folder) for actor in self._actors]
        wrote: dict[str, Digest] = {}
        for files in await self._gathered(calls, "write"):
            wrote |= files
        return wrote

    def close(self) -> None:
        """End every rank, whatever it waits for."""
        import ray
        from ray.util.placement_group import remove_placement_group

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        remove_placement_group(self._group)

    def _given(self, rows: Sequence[TrainingRow]) -> Any:
        """Return a reference, so that the rows travel to each node once."""
        import ray

        return ray.put(list(rows))

    async def _gathered(self, calls: Sequence[Any], method: str) -> list[Any]:
        """Return what each rank answers; the first complaint ends it, a death before its consequences."""
        tasks = [asyncio.ensure_future(_answer(call)) for call in calls]
        try:
            _, silent = await asyncio.wait(tasks, timeout=self.timeout_s, return_when=asyncio.FIRST_EXCEPTION)
            complaints = self._complaints(tasks)
            if complaints and silent:
                await asyncio.wait(silent, timeout=GRACE_S)
                complaints = self._complaints(tasks)
        finally:
            for task in tasks:
                task.cancel()
        if complaints:
            raise min(complaints, key=lambda error: not isinstance(error, WorkerLost))
        late = [name for name, task in zip(self._names, tasks, strict=False) if task in silent]
        if late:
            raise WorkerLost(
                f"Ray worker: {', '.join(late)} did not answer within {self.timeout_s:g} s, asked for {method}. "
                "policy.timeout_s is the limit."
            )
        return [task.result() for task in tasks]

    def _complaints(self, tasks: Sequence[asyncio.Future[Any]]) -> list[BaseException]:
        from ray.exceptions import RayError

        errors = [(name, task.exception()) for name, task in zip(self._names, tasks, strict=False) if task.done()]
        return [translated(name, e) if isinstance(e, RayError) else e for name, e in errors if e is not None]


async def _answer(call: Any) -> Any:
    return await call


class RankActor:
    """One rank in a process of its own."""

    def __init__(self, settings: Settings, source: str, resume_from: Path | None, rank: int, world: int) -> None:
        self._settings = settings
        self._source = source
        self._resume_from = resume_from
        self._rank = rank
        self._world = world
        self._policy: Policy | None = None
        self._store: Any = None

    def meeting(self) -> tuple[str, int]:
        """Open the store at which all ranks meet, and return its address and port. Of rank 0."""
        import ray
        import torch

        host = ray.util.get_node_ip_address()
        self._store = torch.distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False)
        return host, int(self._store.port)

    def start(self, meeting: tuple[str, int]) -> int:
        """Join the others, load the model, and return this process's id."""
        from jobs.grpo.policy import Policy

        if self._world > 1:
            self._join(*meeting)
        self._policy = Policy(self._settings, self._source, rank=self._rank, world=self._world)
        if self._resume_from is not None:
            self._policy.load(self._resume_from)
        return os.getpid()

    def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        return self._ready().step(rows, learning_rate)

    def logprobs(self, rows: Sequence[TrainingRow], reference: bool) -> list[tuple[float, ...]]:
        found = self._ready().logprobs(rows, reference=reference)
        # The same on every rank.
        return found if self._rank == 0 else []

    def weights(self, version: int) -> tuple[None, dict[str, Tensor]]:
        return None, self._ready().weights(version)

    def snapshot(self) -> None:
        self._ready().snapshot()

    def write(self, folder: Path) -> dict[str, Digest]:
        return self._ready().write(folder)

    def _ready(self) -> Policy:
        assert self._policy is not None, "a rank is started before it is used"
        return self._policy

    def _join(self, host: str, port: int) -> None:
        import ray
        import torch

        # gloo would take the interface of the host's name, which on many clusters leads nowhere.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface(ray.util.get_node_ip_address()))
        if self._store is None:
            self._store = torch.distributed.TCPStore(host, port, is_master=False)
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=self._store,
            rank=self._rank,
            world_size=self._world,
            timeout=timedelta(seconds=self._settings.policy.timeout_s),
        )


def interface(address: str) -> str:
    """Return the network interface that has an IPv4 address; ``lo`` for any of this machine's own."""
    if address.startswith("127."):
        return "lo"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking, 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
            except OSError:
                continue  # it has no IPv4 address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    raise WorkerLost(f"policy: no network interface of {socket.gethostname()} has the address {address} that Ray uses.")
