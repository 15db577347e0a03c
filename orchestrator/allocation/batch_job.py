"""The Slurm job that this process is the batch script of: its id, its nodes, its end."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.allocation import nodes
from orchestrator.allocation.nodes import Nodes
from orchestrator.errors import InputError
from orchestrator.plan import Plan
from orchestrator.rendezvous import LOOPBACK


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """What Slurm says of the job in the environment of its batch script.

    Attributes:
        id: The job's, for a heterogeneous job its leader's.
        restarts: How often Slurm itself has requeued it.
        nodes: Its nodes by group of the plan.
        ends_at: Unix time, seconds, at which its time limit is over.
        address: Under which its other nodes reach this one.
    """

    id: str
    restarts: int
    nodes: Nodes
    ends_at: float
    address: str


def here(plan: Plan, environment: Mapping[str, str] = os.environ, group: int = 0) -> BatchJob | None:
    """Return the job we are in; None for a plan that runs on one machine.

    Args:
        plan: What is run.
        environment: The batch script's.
        group: Of a pair, whose job this is; 0 is the trainer's.

    Raises:
        InputError: The plan is for Slurm and this is no job of Slurm's, or one with fewer nodes.
    """
    if plan.executor != "slurm":
        return None
    if "SLURM_JOB_ID" not in environment:
        raise InputError(
            "allocation: SLURM_JOB_ID is not set, and the plan is for Slurm. Submit the run's script "
            "with 'orchestrator submit', or by hand with 'sbatch submit.sbatch'."
        )
    from orchestrator.executors import slurm_commands

    only = group if plan.placement.kind == "pair" else None
    found = nodes.of_this_job(plan, environment, slurm_commands.hostnames, only)
    return BatchJob(
        id=environment["SLURM_JOB_ID"],
        restarts=int(environment.get("SLURM_RESTART_COUNT", "0")),
        nodes=found,
        ends_at=float(environment.get("SLURM_JOB_END_TIME") or time.time() + plan.time_limit_s),
        address=address_towards(found.everyone),
    )


def address_towards(names: tuple[str, ...]) -> str:
    """Return the address of this machine on the route to the others, the loopback if there are none.

    Not the address of our own name: that is 127.0.1.1 on many a Debian.
    """
    for name in names:
        if name in (socket.gethostname(), socket.gethostname().partition(".")[0]):
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((name, 9))  # Sends nothing.
            return str(probe.getsockname()[0])
    return LOOPBACK
