from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator import plan, recipe
from orchestrator.errors import InputError
from orchestrator.plan import Plan
from orchestrator.profile import Profile

RECIPE = """\
name: a
roles:
  eval: {job: eval, needs: judge, after: [train]}
  train: {job: grpo, needs: [judge], after: tiny, on_failure: {restart: 5, backoff_s: 1}, with: {steps: 3}}
  judge: {job: judge, after: tiny, replicas: 2, gpus_per_node: 4}
  tiny: {job: tiny, environment: {A: 1}, drain_s: 5}
time_limit: 90m
restarts: {crash: 7}
"""


def build(folder: Path, text: str = RECIPE, profile: Profile | None = None) -> Plan:
    path = folder / "r.yaml"
    path.write_text(text)
    site = profile or Profile(executor="local")
    return plan.build(recipe.load(path), site, cluster="here", source="r.yaml", sha256="0" * 64)


def test_roles_are_planned_in_the_order_in_which_they_can_start(tmp_path: Path) -> None:
    assert [role.name for role in build(tmp_path).roles] == ["tiny", "judge", "train", "eval"]


def test_a_role_that_another_needs_is_a_service(tmp_path: Path) -> None:
    kinds = {role.name: role.kind for role in build(tmp_path).roles}

    assert kinds == {"tiny": "batch", "judge": "service", "train": "batch", "eval": "batch"}


def test_the_plan_takes_over_what_the_recipe_says(tmp_path: Path) -> None:
    built = build(tmp_path)

    assert (built.name, built.cluster, built.executor, built.time_limit_s) == ("a", "here", "local", 5400)
    assert (built.restarts.crash, built.restarts.preempted, built.restarts.without_progress) == (7, None, 3)
    assert (built.role("train").restarts, built.role("train").backoff_s) == (5, 1.0)
    assert built.role("train").settings == {"steps": 3}
    assert (built.role("judge").replicas, built.role("judge").gpus_per_node) == (2, 4)
    assert (built.role("tiny").environment, built.role("tiny").drain_s) == ({"A": "1"}, 5.0)


def test_the_same_recipe_and_profile_give_the_same_bytes(tmp_path: Path) -> None:
    assert plan.to_json(build(tmp_path)) == plan.to_json(build(tmp_path))


def test_a_plan_is_read_back_unchanged(tmp_path: Path) -> None:
    built = build(tmp_path)

    assert plan.from_json(plan.to_json(built)) == built


def test_the_placement_says_why(tmp_path: Path) -> None:
    placement = build(tmp_path).placement

    assert placement.kind == "local"
    assert placement.why == "The profile 'here' starts every role on this machine, so there is no choice."


def test_a_plan_for_slurm_is_read_back_unchanged(tmp_path: Path) -> None:
    site = Profile.model_validate(
        {
            "executor": "slurm",
            "hetjobs": False,
            "slurm": {"exclude": ["n1"], "setup": "ulimit -n 9"},
            "roles": {"judge": {"time_limit": "2h", "container": {"engine": "pyxis", "image": "a", "mounts": ["/b"]}}},
        }
    )

    built = build(tmp_path, profile=site)

    assert len(built.groups) == 2
    assert plan.from_json(plan.to_json(built)) == built
    assert Profile.model_validate(built.profile) == site


def test_a_plan_of_one_machine_has_no_groups(tmp_path: Path) -> None:
    assert build(tmp_path).groups == ()


def test_a_plan_made_before_there_were_groups_is_still_read(tmp_path: Path) -> None:
    data = json.loads(plan.to_json(build(tmp_path)))
    del data["groups"]
    for role in data["roles"]:
        del role["group"], role["first_node"], role["url"], role["options"]

    assert plan.from_json(json.dumps(data)) == build(tmp_path)


def test_a_recipe_that_cannot_be_laid_out_makes_no_plan(tmp_path: Path) -> None:
    site = Profile.model_validate({"executor": "slurm", "hetjobs": False})

    with pytest.raises(InputError, match=r"r\.yaml: 1 problem\.\n  placement: The profile 'here' says"):
        build(tmp_path, RECIPE + "placement: hetjob\n", profile=site)
