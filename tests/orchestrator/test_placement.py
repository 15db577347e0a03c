from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import placement, plan, recipe
from orchestrator.errors import InputError
from orchestrator.plan import Plan, Role
from orchestrator.profile import Profile

RECIPE = """\
name: a
roles:
  tiny: {job: tiny}
  judge: {job: judge, after: tiny, gpus_per_node: 8}
  train: {job: grpo, needs: judge, after: tiny, nodes: 2, gpus_per_node: 8}
  eval: {job: eval, needs: judge, after: train, gpus_per_node: 8}
"""


def laid(folder: Path, overrides: str = "", *, text: str = RECIPE, **site: Any) -> Plan:
    path = folder / "r.yaml"
    path.write_text(text)
    read = recipe.load(path, overrides.split())
    profile = Profile.model_validate({"executor": "slurm", **site})
    return plan.build(read, profile, cluster="hpc", source="r.yaml", sha256="0" * 64)


def faults(folder: Path, overrides: str, *, text: str = RECIPE, **site: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        laid(folder, overrides, text=text, **site)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def places(the_plan: Plan) -> dict[str, tuple[int, int]]:
    return {role.name: (role.group, role.first_node) for role in the_plan.roles if not role.url}


def shapes(the_plan: Plan) -> list[tuple[str, int, int]]:
    return [(group.name, group.nodes, group.gpus_per_node) for group in the_plan.groups]


def test_nodes_alike_are_a_slice_that_the_trainer_begins(tmp_path: Path) -> None:
    built = laid(tmp_path, slurm={"partition": "gpu"})

    assert built.placement.kind == "slice"
    assert built.placement.why == (
        "train and judge need nodes of the same kind (partition gpu, 8 GPUs), "
        "and one plain job starts sooner than a hetjob."
    )
    assert shapes(built) == [("train", 3, 8)]
    assert places(built) == {"tiny": (0, 0), "judge": (0, 2), "train": (0, 0), "eval": (0, 0)}


@pytest.mark.parametrize(
    ("site", "difference"),
    [
        pytest.param(
            {"roles": {"judge": {"partition": "h100"}}},
            "partition gpu for train and h100 for judge",
            id="partition",
        ),
        pytest.param(
            {"roles": {"judge": {"qos": "high"}}}, "qos none for train and high for judge", id="option of one"
        ),
        pytest.param(
            {"roles": {"judge": {"gpus_per_node": 4}}}, "gpus_per_node 8 for train and 4 for judge", id="GPUs"
        ),
        pytest.param(
            {"roles": {"judge": {"cpus_per_node": 4}, "train": {"cpus_per_node": 8}}},
            "cpus_per_node 8 for train and 4 for judge",
            id="cores",
        ),
        pytest.param(
            {"roles": {"judge": {"gpu_type": "a40"}, "train": {"gpu_type": "a100"}}},
            "gpu_type a100 for train and a40 for judge",
            id="type of GPU",
        ),
    ],
)
def test_nodes_unlike_are_a_hetjob(tmp_path: Path, site: dict[str, Any], difference: str) -> None:
    built = laid(tmp_path, slurm={"partition": "gpu"}, **site)

    assert built.placement.kind == "hetjob"
    assert built.placement.why == f"train and judge need nodes of different kinds at the same time: {difference}."
    assert [group.name for group in built.groups] == ["train", "judge"]
    assert places(built) == {"tiny": (0, 0), "judge": (1, 0), "train": (0, 0), "eval": (0, 0)}


@pytest.mark.parametrize(
    "site",
    [
        pytest.param({"roles": {"judge": {"cpus_per_node": 4}}}, id="a size that only one gives"),
        pytest.param(
            {"slurm": {"exclusive": True}, "roles": {"judge": {"gpus_per_node": 4, "cpus_per_node": 2}}},
            id="whole nodes",
        ),
    ],
)
def test_what_makes_no_difference(tmp_path: Path, site: dict[str, Any]) -> None:
    assert laid(tmp_path, **site).placement.kind == "slice"


def test_whole_nodes_with_gpus_are_unlike_those_without(tmp_path: Path) -> None:
    built = laid(tmp_path, "judge.gpus_per_node=0", slurm={"exclusive": True})

    assert built.placement.why.endswith("at the same time: GPUs some for train and none for judge.")


def test_the_type_of_gpu_is_nothing_to_a_node_without(tmp_path: Path) -> None:
    text = RECIPE.replace("gpus_per_node: 8", "gpus_per_node: 0")

    built = laid(tmp_path, text=text, roles={"judge": {"gpu_type": "a40"}})

    assert built.placement.kind == "slice"


def test_a_group_has_the_largest_of_each_size(tmp_path: Path) -> None:
    built = laid(tmp_path, "tiny.memory_gb=64 eval.cpus_per_node=16 train.memory_gb=32")

    assert [(group.cpus_per_node, group.memory_gb) for group in built.groups] == [(16, 64.0)]


def test_a_site_without_hetjobs_gets_a_pair(tmp_path: Path) -> None:
    built = laid(tmp_path, hetjobs=False, roles={"judge": {"partition": "h100"}})

    assert built.placement.kind == "pair"
    assert built.placement.why == (
        "train and judge need nodes of different kinds (partition none for train and h100 for judge), "
        "and 'hpc' runs no heterogeneous jobs."
    )
    assert shapes(built) == [("train", 2, 8), ("judge", 1, 8)]


def test_a_time_limit_of_one_role_makes_a_pair(tmp_path: Path) -> None:
    built = laid(tmp_path, roles={"judge": {"time_limit": "2h"}})

    assert built.placement.kind == "pair"
    assert built.placement.why == "judge has a time limit of its own on this site."
    assert [group.time_limit_s for group in built.groups] == [None, 7200]


def test_a_service_elsewhere_needs_no_nodes(tmp_path: Path) -> None:
    built = laid(tmp_path, "judge.url=https://judges.example/v1 judge.model=big judge.api_key_file=/home/me/key")

    assert built.placement.kind == "external"
    assert built.placement.why == ("judge (https://judges.example/v1) runs elsewhere; one plain job holds the rest.")
    assert shapes(built) == [("train", 2, 8)]
    judge = built.role("judge")
    assert (judge.job, judge.kind, judge.url) == ("external", "service", "https://judges.example/v1")
    assert (judge.replicas, judge.gpus_per_node) == (1, 0)
    assert judge.settings == {"model": "big", "api_key_file": "/home/me/key"}


def test_roles_that_take_turns_alone_are_one_plain_job(tmp_path: Path) -> None:
    built = laid(tmp_path, text="name: a\nroles:\n  b: {job: x}\n  c: {job: x, after: b, nodes: 3}\n")

    assert built.placement.kind == "slice"
    assert built.placement.why == "b and c run one after the other on the same nodes, so one plain job will do."
    assert shapes(built) == [("b", 3, 0)]


def test_batch_roles_that_may_run_together_have_nodes_of_their_own(tmp_path: Path) -> None:
    built = laid(
        tmp_path, text="name: a\nroles:\n  b: {job: x, nodes: 2}\n  c: {job: x}\n  d: {job: x, after: [b, c]}\n"
    )

    assert places(built) == {"b": (0, 0), "c": (0, 2), "d": (0, 0)}
    assert shapes(built) == [("b", 3, 0)]


def test_every_replica_has_nodes_of_its_own(tmp_path: Path) -> None:
    text = "name: a\nroles:\n  s: {job: x, replicas: 3, nodes: 2}\n  t: {job: y}\n  b: {job: x, needs: [s, t]}\n"

    built = laid(tmp_path, text=text)

    assert places(built) == {"b": (0, 0), "s": (0, 1), "t": (0, 7)}
    assert shapes(built) == [("b", 8, 0)]


def test_a_batch_role_with_a_partition_of_its_own_does_not_share(tmp_path: Path) -> None:
    built = laid(tmp_path, roles={"eval": {"partition": "small"}})

    assert places(built)["eval"] == (2, 0)
    assert places(built)["tiny"] == places(built)["train"] == (0, 0)


def test_a_batch_role_without_wishes_goes_with_the_trainer(tmp_path: Path) -> None:
    built = laid(
        tmp_path, slurm={"partition": "any"}, roles={"train": {"partition": "gpu"}, "judge": {"partition": "gpu"}}
    )

    assert built.placement.kind == "slice"
    assert [group.options for group in built.groups] == [{"partition": "gpu"}]


def test_a_hetjob_that_is_asked_for_divides_services_from_the_rest(tmp_path: Path) -> None:
    built = laid(tmp_path, "placement=hetjob")

    assert (built.placement.kind, built.placement.why) == ("hetjob", "The recipe asks for it.")
    assert shapes(built) == [("train", 2, 8), ("judge", 1, 8)]


def test_services_alike_are_one_component(tmp_path: Path) -> None:
    text = (
        "name: a\nroles:\n  s: {job: x}\n  t: {job: y, replicas: 2}\n  b: {job: x, needs: [s, t], gpus_per_node: 1}\n"
    )

    built = laid(tmp_path, text=text)

    assert shapes(built) == [("b", 1, 1), ("s", 3, 0)]
    assert places(built) == {"s": (1, 0), "t": (1, 1), "b": (0, 0)}


@pytest.mark.parametrize(
    ("overrides", "site", "expected"),
    [
        pytest.param(
            "placement=slice judge.gpus_per_node=4",
            {"slurm": {"partition": "gpu"}, "roles": {"judge": {"partition": "h100"}}},
            [
                "placement: A slice has nodes of one kind, but these differ: partition gpu for train and h100 for "
                "judge; gpus_per_node 8 for train and 4 for judge. Write placement: hetjob, or auto, or make "
                "them alike."
            ],
            id="slice of unlike nodes",
        ),
        pytest.param(
            "placement=hetjob",
            {"hetjobs": False},
            [
                "placement: The profile 'hpc' says that its site runs no heterogeneous jobs. "
                "Write placement: pair, or auto."
            ],
            id="hetjob where there are none",
        ),
        pytest.param(
            "placement=hetjob judge.url=http://h/v1 judge.model=m",
            {},
            [
                "placement: A heterogeneous job has several kinds of nodes, but all roles of this recipe take turns "
                "on the same. Write placement: auto."
            ],
            id="hetjob of one kind",
        ),
        pytest.param(
            "placement=pair judge.url=http://h/v1 judge.model=m",
            {},
            [
                "placement: A pair is a job of batch roles and one of services, but no service of this recipe needs "
                "nodes. Write placement: auto."
            ],
            id="pair of one",
        ),
        pytest.param(
            "placement=pair",
            {"roles": {"eval": {"partition": "small"}}},
            [
                "placement: In a pair all batch roles are in one job, but they need different nodes: partition none "
                "for train and small for eval. Make them alike, or write placement: hetjob."
            ],
            id="pair of unlike batch roles",
        ),
        pytest.param(
            "placement=external",
            {},
            [
                "placement: judge has no url, so it does not run elsewhere. "
                "Write judge.url=https://host:port/v1, or placement: auto."
            ],
            id="external without a url",
        ),
        pytest.param(
            "placement=external judge.url=http://h/v1 judge.model=m",
            {"roles": {"eval": {"partition": "small"}}},
            [
                "placement: What is left for Slurm needs nodes of different kinds: partition none for train and small "
                "for eval. Write placement: auto."
            ],
            id="external and unlike",
        ),
        pytest.param(
            "placement=hetjob",
            {"roles": {"judge": {"time_limit": "2h"}}},
            [
                "placement: The profile gives judge a time limit of its own; one job has one. "
                "Write placement: pair, or auto."
            ],
            id="two time limits in one job",
        ),
    ],
)
def test_a_placement_that_cannot_be_is_refused(
    tmp_path: Path, overrides: str, site: dict[str, Any], expected: list[str]
) -> None:
    assert faults(tmp_path, overrides, **site) == expected


def test_slurm_takes_no_hetjob_of_too_many_components(tmp_path: Path) -> None:
    services = "".join(f"  s{i}: {{job: x, cpus_per_node: {i + 1}}}\n" for i in range(placement.MAX_COMPONENTS))
    needs = ", ".join(f"s{i}" for i in range(placement.MAX_COMPONENTS))

    found = faults(tmp_path, "", text=f"name: a\nroles:\n{services}  b: {{job: x, needs: [{needs}]}}\n")

    assert found == [
        "placement: The roles need 129 kinds of nodes; Slurm takes a heterogeneous job of 128. Make some of them alike."
    ]


def test_the_site_goes_before_the_recipe_and_the_recipe_s_slurm_before_the_site(tmp_path: Path) -> None:
    built = laid(
        tmp_path,
        "judge.slurm.partition=mine judge.slurm.environment.B=3 judge.environment.A=1",
        slurm={"partition": "gpu", "account": "us"},
        roles={"judge": {"partition": "h100", "gpus_per_node": 4, "environment": {"A": "2", "B": "2", "C": "2"}}},
    )

    assert built.groups[1].options == {"partition": "mine", "account": "us"}
    assert built.role("judge").gpus_per_node == 4
    assert built.role("judge").environment == {"A": "1", "B": "3", "C": "2"}


def test_a_role_is_wrapped_in_what_the_script_does_not_set(tmp_path: Path) -> None:
    image = {"engine": "apptainer", "image": "/i.sif"}
    site = {"modules": ["gcc"], "setup": "ulimit -n 9", "virtual_environment": "/v", "container": image}

    built = laid(tmp_path, slurm=site, roles={"judge": {"modules": ["cuda"], "setup": "umask 022", "python": "/p"}})

    assert built.role("train").options == {"container": image}
    assert built.role("judge").options == {
        "container": image,
        "modules": ["cuda"],
        "setup": ["umask 022"],
        "python": "/p",
    }


_ROLE_SIZES = st.fixed_dictionaries(
    {
        "nodes": st.integers(1, 3),
        "replicas": st.integers(1, 3),
        "gpus_per_node": st.sampled_from([0, 8]),
        "cpus_per_node": st.sampled_from([None, 4, 8]),
        "partition": st.sampled_from([None, "a", "b"]),
        "needs": st.sets(st.integers(0, 5), max_size=2),
        "after": st.sets(st.integers(0, 5), max_size=2),
    }
)


def some_recipe(folder: Path, drawn: list[dict[str, Any]]) -> recipe.Recipe | None:
    """Return a recipe of the roles drawn, each waiting for earlier ones only; None if it would have no sense."""
    earlier = [{i for i in role["needs"] if i < at} for at, role in enumerate(drawn)]
    services = set().union(*earlier)
    lines = ["name: a", "roles:"]
    for at, role in enumerate(drawn):
        needs = ", ".join(f"r{i}" for i in sorted(earlier[at]))
        after = ", ".join(f"r{i}" for i in sorted(role["after"]) if i < at and i not in services)
        sizes = f"nodes: {role['nodes']}, gpus_per_node: {role['gpus_per_node']}"
        sizes += f", replicas: {role['replicas']}" if at in services else ""
        sizes += f", cpus_per_node: {role['cpus_per_node']}" if role["cpus_per_node"] else ""
        where = f", slurm: {{partition: {role['partition']}}}" if role["partition"] else ""
        lines.append(f"  r{at}: {{job: x, needs: [{needs}], after: [{after}], {sizes}{where}}}")
    path = folder / "fuzz.yaml"
    path.write_text("\n".join(lines) + "\n")
    return recipe.load(path)


def taken(role: Role) -> set[tuple[int, int]]:
    return {(role.group, role.first_node + node) for node in range(role.nodes * role.replicas)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(_ROLE_SIZES, min_size=1, max_size=6), st.booleans())
def test_any_roles_get_nodes_that_are_large_enough_and_not_taken(
    tmp_path: Path, drawn: list[dict[str, Any]], hetjobs: bool
) -> None:
    read = some_recipe(tmp_path, drawn)
    assert read is not None
    profile = Profile.model_validate({"executor": "slurm", "hetjobs": hetjobs})

    layout, found = placement.lay(read, profile, "hpc")

    if layout is None:
        assert not hetjobs
        assert found
        return
    ordered = placement._waits(list(layout.roles))
    for role in layout.roles:
        group = layout.groups[role.group]
        assert all(node < group.nodes for _, node in taken(role))
        assert group.gpus_per_node >= role.gpus_per_node
        assert (group.cpus_per_node or 0) >= (role.cpus_per_node or 0)
        wish = read.roles[role.name].slurm.partition
        assert wish is None or group.options["partition"] == wish
    for one, other in combinations(layout.roles, 2):
        turns = one.kind == other.kind == "batch" and (
            one.name in ordered[other.name] or other.name in ordered[one.name]
        )
        assert turns or not taken(one) & taken(other)
    for number, group in enumerate(layout.groups):
        assert {(number, node) for node in range(group.nodes)} == set().union(
            *(taken(role) for role in layout.roles if role.group == number)
        )
