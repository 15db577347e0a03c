"""The nodes of a role: which this is, who the others are, and what each brings to Ray."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from jobs.entry import Context


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """All nodes of a role, and this one among them.

    Attributes:
        hosts: Names in order of rank.
        rank: Which of them this is; 0 runs the driver.
        cpus: CPU slots of this node.
        cpus_per_node: What the plan gives every node; None leaves it to each.
        gpus_per_node: GPUs of every node.
    """

    hosts: tuple[str, ...]
    rank: int
    cpus: int
    cpus_per_node: int | None = None
    gpus_per_node: int = 0


def own(context: Context) -> Cluster:
    """Return the nodes that the supervisor started this role on; for a job started by hand this one."""
    role = context.plan.role(context.role) if context.plan else None
    hosts = tuple(name for name in os.environ.get("ORCH_NODES", "").split(",") if name)
    cpus_per_node = role.cpus_per_node if role else None
    return Cluster(
        hosts=hosts or (socket.gethostname(),),
        rank=int(os.environ.get("ORCH_NODE_RANK", "0")),
        cpus=cpus_per_node or int(os.environ.get("SLURM_CPUS_ON_NODE", "0")) or os.cpu_count() or 1,
        cpus_per_node=cpus_per_node,
        gpus_per_node=role.gpus_per_node if role else 0,
    )


def resource(rank: int) -> str:
    """Return the Ray resource that only the node of that rank has; what asks for it runs there."""
    return f"rank{rank}"


def progress_name(role: str, rank: int) -> str:
    """Return under which name a node of rank above 0 says what it does."""
    return f"{role}-node{rank}"
