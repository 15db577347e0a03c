"""The nodes of this allocation by group, as Slurm gave them, and which of them a role's replica runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.errors import InputError
from orchestrator.plan import Plan, Role


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Host names by group.

    Attributes:
        groups: For every group of the plan its nodes; empty for a group that is another job's.
        heterogeneous: Whether the groups are components of one heterogeneous job.
    """

    groups: tuple[tuple[str, ...], ...]
    heterogeneous: bool

    def of(self, role: Role, replica: int) -> tuple[str, ...]:
        """Return the nodes of one replica, in order of rank."""
        first = role.first_node + replica * role.nodes
        return self.groups[role.group][first : first + role.nodes]

    @property
    def everyone(self) -> tuple[str, ...]:
        """All nodes, each once."""
        return tuple(dict.fromkeys(node for group in self.groups for node in group))


def of_this_job(
    plan: Plan, environment: Mapping[str, str], expand: Callable[[str], tuple[str, ...]], group: int | None = None
) -> Nodes:
    """Return the nodes that Slurm's variables name.

    Args:
        plan: What is run.
        environment: The batch script's.
        expand: Turns ``n[1-3]`` into names; ``scontrol show hostnames``.
        group: The only group of this job, for one job of a pair; None if all groups are this job's.

    Raises:
        InputError: There are fewer nodes than the plan has; a script that was changed by hand, or run outside a job.
    """
    heterogeneous = "SLURM_HET_SIZE" in environment
    if group is not None:
        lists = {group: environment.get("SLURM_JOB_NODELIST", "")}
    elif heterogeneous:
        lists = {
            n: environment.get(f"SLURM_JOB_NODELIST_HET_GROUP_{n}", "")
            for n in range(int(environment["SLURM_HET_SIZE"]))
        }
    else:
        lists = {0: environment.get("SLURM_JOB_NODELIST", "")}
    found = {number: expand(text) if text else () for number, text in lists.items()}
    groups = tuple(found.get(number, ()) for number in range(len(plan.groups)))
    for number, wanted in enumerate(plan.groups):
        mine = group is None or number == group
        if mine and len(groups[number]) < wanted.nodes:
            raise InputError(
                f"allocation: group {wanted.name} of the plan has {wanted.nodes} nodes; this job has "
                f"{len(groups[number])} for it ({', '.join(groups[number]) or 'none'}). "
                "Submit with 'orchestrator submit'."
            )
    return Nodes(groups=groups, heterogeneous=heterogeneous)
