from __future__ import annotations

import dataclasses

import pytest

from orchestrator.allocation import nodes
from orchestrator.errors import InputError
from orchestrator.plan import Group, Placement, Plan, Restarts, Role

PLAN = Plan(
    name="r",
    recipe="r.yaml",
    recipe_sha256="0",
    cluster="c",
    executor="slurm",
    placement=Placement(kind="hetjob", why=""),
    time_limit_s=60,
    restarts=Restarts(),
    roles=(
        Role(name="judge", job="judge", kind="service", replicas=2, group=1),
        Role(name="train", job="grpo", kind="batch", nodes=2, group=0),
    ),
    groups=(Group(name="train", nodes=2), Group(name="judge", nodes=2)),
)


def expand(text: str) -> tuple[str, ...]:
    return tuple(text.split("+"))


def test_components_of_a_heterogeneous_job_are_the_groups() -> None:
    env = {
        "SLURM_HET_SIZE": "2",
        "SLURM_JOB_NODELIST": "n1+n2",
        "SLURM_JOB_NODELIST_HET_GROUP_0": "n1+n2",
        "SLURM_JOB_NODELIST_HET_GROUP_1": "n5+n6",
    }
    found = nodes.of_this_job(PLAN, env, expand)
    assert found.heterogeneous
    assert [found.of(PLAN.role("judge"), replica) for replica in (0, 1)] == [("n5",), ("n6",)]
    assert found.of(PLAN.role("train"), 0) == ("n1", "n2")
    assert found.everyone == ("n1", "n2", "n5", "n6")


def test_a_plain_job_is_cut_into_the_roles_nodes() -> None:
    roles = (
        Role(name="train", job="grpo", kind="batch", nodes=2, first_node=0),
        Role(name="judge", job="judge", kind="service", replicas=2, first_node=2),
    )
    plan = dataclasses.replace(PLAN, roles=roles, groups=(Group(name="train", nodes=4),))
    found = nodes.of_this_job(plan, {"SLURM_JOB_NODELIST": "n1+n2+n3+n4"}, expand)
    assert not found.heterogeneous
    assert found.of(roles[0], 0) == ("n1", "n2")
    assert found.of(roles[1], 1) == ("n4",)


def test_one_job_of_a_pair_knows_its_own_group_only() -> None:
    found = nodes.of_this_job(PLAN, {"SLURM_JOB_NODELIST": "n5+n6"}, expand, group=1)
    assert found.groups == ((), ("n5", "n6"))


def test_a_job_with_fewer_nodes_than_planned_is_refused() -> None:
    with pytest.raises(InputError, match=r"group train of the plan has 2 nodes; this job has 1 for it \(n1\)"):
        nodes.of_this_job(PLAN, {"SLURM_JOB_NODELIST": "n1"}, expand)
