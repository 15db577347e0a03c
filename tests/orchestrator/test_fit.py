from __future__ import annotations

import pytest

from orchestrator import fit
from orchestrator.machine import Machine
from orchestrator.plan import Placement, Plan, Restarts, Role

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
