from __future__ import annotations

from typing import Any

import pytest

from orchestrator import fit
from orchestrator.machine import Machine
from orchestrator.plan import Placement, Plan, Restarts, Role
from orchestrator.profile import Profile

LAPTOP = Machine(cpus=8, memory_gb=16.0, gpus=0)
SERVER = Machine(cpus=64, memory_gb=512.0, gpus=8)


def facts(machine: Machine, *roles: Role) -> list[str]:
    plan = Plan(
        name="a",
        recipe="r.yaml",
        recipe_sha256="0" * 64,
        cluster="local",
        executor="local",
        placement=Placement(kind="local", why="Because."),
        time_limit_s=60,
        restarts=Restarts(),
        roles=roles,
    )
    return [f"{'.'.join(map(str, fault.path))}: {fault.fact}" for fault in fit.faults(plan, machine)]


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        pytest.param(
            Role(name="a", job="x", kind="batch", gpus_per_node=8),
            "roles.a.gpus_per_node: The role asks for 8 GPUs; this machine has no GPU.",
            id="GPUs",
        ),
        pytest.param(
            Role(name="a", job="x", kind="service", gpus_per_node=1, replicas=2),
            "roles.a.gpus_per_node: The role asks for 2 GPUs; this machine has no GPU.",
            id="GPUs of replicas",
        ),
        pytest.param(
            Role(name="a", job="x", kind="batch", nodes=2),
            "roles.a.nodes: The role asks for 2 nodes; this is one machine.",
            id="nodes",
        ),
        pytest.param(
            Role(name="a", job="x", kind="batch", memory_gb=32.5),
            "roles.a.memory_gb: The role asks for 32.5 GiB of memory; this machine has 16.",
            id="memory",
        ),
        pytest.param(
            Role(name="a", job="x", kind="batch", cpus_per_node=9),
            "roles.a.cpus_per_node: The role asks for 9 CPU cores; this machine has 8.",
            id="cores",
        ),
    ],
)
def test_a_role_that_asks_for_more_than_there_is(role: Role, expected: str) -> None:
    assert facts(LAPTOP, role) == [expected]


def test_roles_that_run_together_share_the_gpus() -> None:
    judge = Role(name="judge", job="judge", kind="service", gpus_per_node=4)
    train = Role(name="train", job="grpo", kind="batch", gpus_per_node=8, needs=("judge",))

    assert facts(SERVER, judge, train) == [
        "roles.train.gpus_per_node: judge and train run at the same time and ask for 12 GPUs; this machine has 8 GPUs."
    ]


def test_roles_that_run_one_after_another_do_not_add_up() -> None:
    train = Role(name="train", job="grpo", kind="batch", gpus_per_node=8)
    then = Role(name="eval", job="eval", kind="batch", gpus_per_node=8, after=("train",))

    assert facts(SERVER, train, then) == []


def test_a_role_without_wishes_fits_anywhere() -> None:
    assert facts(Machine(cpus=1, memory_gb=1.0, gpus=0), Role(name="a", job="x", kind="batch")) == []


def site_facts(*roles: Role, time_limit_s: int = 60, **site: Any) -> list[str]:
    plan = Plan(
        name="a",
        recipe="r.yaml",
        recipe_sha256="0" * 64,
        cluster="hpc",
        executor="slurm",
        placement=Placement(kind="slice", why="Because."),
        time_limit_s=time_limit_s,
        restarts=Restarts(),
        roles=roles,
    )
    profile = Profile.model_validate({"executor": "slurm", **site})
    found = fit.site_faults(plan, profile)
    return [f"{'.'.join(map(str, fault.path))}: {fault.fact} {fault.way_out}".rstrip() for fault in found]


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        pytest.param(
            Role(name="a", job="x.y", kind="batch", gpus_per_node=8),
            "roles.a.gpus_per_node: The role asks for 8 GPUs; a node of this site has 4 GPUs.",
            id="GPUs",
        ),
        pytest.param(
            Role(name="a", job="x.y", kind="batch", cpus_per_node=9),
            "roles.a.cpus_per_node: The role asks for 9 CPU cores; a node of this site has 8.",
            id="cores",
        ),
        pytest.param(
            Role(name="a", job="x.y", kind="batch", memory_gb=32.5),
            "roles.a.memory_gb: The role asks for 32.5 GiB of memory; a node of this site has 16.",
            id="memory",
        ),
    ],
)
def test_a_role_that_asks_for_more_than_a_node_of_the_site_has(role: Role, expected: str) -> None:
    assert site_facts(role, node={"gpus": 4, "cpus": 8, "memory_gb": 16.0}) == [expected]
    assert site_facts(role) == []


def test_replicas_are_on_nodes_of_their_own() -> None:
    judge = Role(name="judge", job="judge", kind="service", gpus_per_node=8, replicas=4)
    train = Role(name="train", job="grpo", kind="batch", gpus_per_node=8, nodes=16, needs=("judge",))

    assert site_facts(judge, train, node={"gpus": 8}) == []


def test_what_runs_on_one_node_is_not_given_more() -> None:
    judge = Role(name="judge", job="judge", kind="service", nodes=2, replicas=2)
    then = Role(name="eval", job="eval", kind="batch", nodes=2, needs=("judge",))

    assert site_facts(judge, then) == [
        "roles.judge.nodes: One 'judge' runs on one node, and the role asks for 2. Set nodes to 1 and replicas to 4.",
        "roles.eval.nodes: One 'eval' runs on one node, and the role asks for 2. Set nodes to 1.",
    ]


@pytest.mark.parametrize("job", ["grpo", "command", "my.package"])
def test_what_can_use_more_nodes_is_given_them(job: str) -> None:
    assert site_facts(Role(name="a", job=job, kind="batch", nodes=2)) == []


def test_a_job_longer_than_the_site_allows_is_refused() -> None:
    role = Role(name="a", job="x.y", kind="batch")

    assert site_facts(role, time_limit_s=7200, time_limit="2h") == []
    assert site_facts(role, time_limit_s=7201, time_limit="2h") == [
        "time_limit: One allocation may last 7201 s; on this site a job ends after 7200 s. "
        "Set time_limit to 2h or less: the run goes on in the next job."
    ]
