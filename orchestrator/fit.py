"""Whether a plan fits where it is to run: what asks for more than there is, is refused before anything starts."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.machine import Machine
from orchestrator.plan import Plan, Role
from orchestrator.profile import Profile
from orchestrator.section import Fault

SPREADS = {"grpo", "command"}
"""The jobs of ours whose one replica can use several nodes. What a module from elsewhere can, its author knows."""


def faults(plan: Plan, machine: Machine) -> list[Fault]:
    """Return what the plan asks of one machine that the machine does not have.

    A role runs beside the services it needs, so their demands add up; roles that wait for each
    other do not. CPU cores are shared by all processes of a machine and only checked role by role.
    """
    found = [fault for role in plan.roles for fault in _alone(role, machine)]
    return found or [fault for role in plan.roles for fault in _together(role, plan, machine)]


def site_faults(plan: Plan, profile: Profile) -> list[Fault]:
    """Return what the plan asks of a cluster that its profile does not allow, or that a job cannot use.

    This machine is not looked at: the nodes are others.
    """
    found = [fault for role in plan.roles if not role.url for fault in _on_site(role, profile)]
    if profile.time_limit_s is not None and plan.time_limit_s > profile.time_limit_s:
        fact = f"One allocation may last {plan.time_limit_s} s; on this site a job ends after {profile.time_limit_s} s."
        way_out = f"Set time_limit to {profile.time_limit} or less: the run goes on in the next job."
        found.append(Fault(path=("time_limit",), fact=fact, way_out=way_out))
    return found


def _on_site(role: Role, profile: Profile) -> Iterator[Fault]:
    node = profile.node
    if role.nodes > 1 and role.job not in SPREADS and "." not in role.job:
        fact = f"One {role.job!r} runs on one node, and the role asks for {role.nodes}."
        more = f" and replicas to {role.nodes * role.replicas}" if role.kind == "service" else ""
        yield _fault(role, "nodes", fact, f"Set nodes to 1{more}.")
    if node.gpus is not None and role.gpus_per_node > node.gpus:
        fact = f"The role asks for {_gpus(role.gpus_per_node)}; a node of this site has {_gpus(node.gpus)}."
        yield _fault(role, "gpus_per_node", fact)
    if node.cpus is not None and role.cpus_per_node is not None and role.cpus_per_node > node.cpus:
        fact = f"The role asks for {role.cpus_per_node} CPU cores; a node of this site has {node.cpus}."
        yield _fault(role, "cpus_per_node", fact)
    if node.memory_gb is not None and role.memory_gb is not None and role.memory_gb > node.memory_gb:
        fact = f"The role asks for {role.memory_gb:g} GiB of memory; a node of this site has {node.memory_gb:g}."
        yield _fault(role, "memory_gb", fact)


def _alone(role: Role, machine: Machine) -> Iterator[Fault]:
    if role.nodes > 1:
        way_out = "Choose a cluster profile with Slurm, or set nodes to 1."
        yield _fault(role, "nodes", f"The role asks for {role.nodes} nodes; this is one machine.", way_out)
    gpus = role.gpus_per_node * role.replicas
    if gpus > machine.gpus:
        yield _fault(role, "gpus_per_node", f"The role asks for {_gpus(gpus)}; this machine has {_gpus(machine.gpus)}.")
    if role.cpus_per_node is not None and role.cpus_per_node > machine.cpus:
        fact = f"The role asks for {role.cpus_per_node} CPU cores; this machine has {machine.cpus}."
        yield _fault(role, "cpus_per_node", fact)
    if role.memory_gb is not None and role.memory_gb > machine.memory_gb:
        fact = f"The role asks for {role.memory_gb:g} GiB of memory; this machine has {machine.memory_gb:g}."
        yield _fault(role, "memory_gb", fact)


def _together(role: Role, plan: Plan, machine: Machine) -> Iterator[Fault]:
    group = [plan.role(name) for name in sorted({role.name, *_needed(role, plan)})]
    names = " and ".join(member.name for member in group)
    gpus = sum(member.gpus_per_node * member.replicas for member in group)
    if len(group) > 1 and gpus > machine.gpus:
        fact = f"{names} run at the same time and ask for {_gpus(gpus)}; this machine has {_gpus(machine.gpus)}."
        yield _fault(role, "gpus_per_node", fact)
    memory = sum((member.memory_gb or 0) * member.replicas for member in group)
    if len(group) > 1 and memory > machine.memory_gb:
        fact = f"{names} run at the same time and ask for {memory:g} GiB; this machine has {machine.memory_gb:g}."
        yield _fault(role, "memory_gb", fact)


def _needed(role: Role, plan: Plan) -> set[str]:
    found: set[str] = set()
    left = list(role.needs)
    while left:
        name = left.pop()
        found.add(name)
        left += plan.role(name).needs
    return found


def _fault(role: Role, key: str, fact: str, way_out: str = "") -> Fault:
    return Fault(path=("roles", role.name, key), fact=fact, way_out=way_out)


def _gpus(count: int) -> str:
    return {0: "no GPU", 1: "1 GPU"}.get(count, f"{count} GPUs")
