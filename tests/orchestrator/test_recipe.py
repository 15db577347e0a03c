from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs import check as jobs_check
from orchestrator import inspection, recipe, strict_yaml
from orchestrator.errors import InputError
from orchestrator.recipe import Recipe


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> list[str]:
    """Return the problems of a recipe, the folder's name left out."""
    _, found = recipe.check(recipe.read(write(folder, "r.yaml", text)))
    return [str(problem).replace(f"{folder}/", "") for problem in found]


def sound(folder: Path, text: str) -> Recipe:
    return recipe.load(write(folder, "r.yaml", text))


def test_a_role_alone_is_a_recipe(tmp_path: Path) -> None:
    read = sound(tmp_path, "name: a\nroles:\n  b: {job: command, with: {argv: [ls]}}\n")

    assert read.roles["b"].settings == {"argv": ["ls"]}
    assert (read.time_limit_s, read.placement, read.restarts.preempted) == (86_400, "auto", None)


def test_one_word_is_a_list_of_one(tmp_path: Path) -> None:
    read = sound(tmp_path, "name: a\nroles:\n  b: {job: x}\n  c: {job: x, after: b}\n")

    assert read.roles["c"].after == ("b",)


def test_numbers_in_an_environment_become_text(tmp_path: Path) -> None:
    read = sound(tmp_path, "name: a\nroles:\n  b: {job: x, environment: {OMP_NUM_THREADS: 2}}\n")

    assert read.roles["b"].environment == {"OMP_NUM_THREADS": "2"}


def test_all_problems_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    text = """\
name: Geo 3k
tme_limit: 1h
roles:
  a:
    job: x
    nodes: "8"
    gpus_per_node: 1.5
    needs: bb
    on_failure: {restrt: 1}
  b: {memory_gb: true}
restarts: {crash: lots}
"""

    assert problems(tmp_path, text) == [
        "r.yaml:1: name: String should match pattern '^[a-z0-9][a-z0-9-]*$', got 'Geo 3k'.",
        "r.yaml:6: roles.a.nodes: Input should be a valid integer, got '8'.",
        "r.yaml:7: roles.a.gpus_per_node: Input should be a valid integer, got 1.5.",
        "r.yaml:9: roles.a.on_failure.restrt: No such key. Did you mean 'restart'?",
        "r.yaml:10: roles.b.memory_gb: Input should be a valid number, got True.",
        "r.yaml:11: restarts.crash: 'lots' is not a number of restarts. Write 0 or more, or 'unlimited'.",
        "r.yaml:2: tme_limit: No such key. Did you mean 'time_limit'?",
        "r.yaml:8: roles.a.needs: There is no role 'bb'. Did you mean 'b'?",
        "r.yaml:10: roles.b.job: The key is missing.",
    ]


def test_an_override_with_an_unknown_key_is_the_place_of_the_problem(tmp_path: Path) -> None:
    path = write(tmp_path, "r.yaml", "name: a\nroles:\n  b: {job: x}\n")

    _, found = recipe.check(recipe.read(path, ["roles.b.nods=2"]))

    assert [str(problem) for problem in found] == [
        "override 'roles.b.nods=2': roles.b.nods: No such key. Did you mean 'nodes'?"
    ]


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        pytest.param(
            "  a: {job: x, after: b}\n  b: {job: x, after: a}\n",
            ["r.yaml:3: roles.a: Roles wait for each other: a -> b -> a."],
            id="a circle",
        ),
        pytest.param(
            "  a: {job: x, after: a}\n",
            ["r.yaml:3: roles.a: Roles wait for each other: a -> a."],
            id="a role that waits for itself",
        ),
        pytest.param(
            "  s: {job: x}\n  a: {job: x, needs: s}\n  b: {job: x, after: s}\n",
            [
                "r.yaml:5: roles.b.after: The service 's' never finishes by itself. "
                "Put it under 'needs' of 'b' only, or take it out of every 'needs'."
            ],
            id="waiting for the end of a service",
        ),
        pytest.param(
            "  a: {job: x, replicas: 2}\n",
            ["r.yaml:3: roles.a.replicas: Only a service, a role that another one needs, can have replicas."],
            id="replicas of a batch role",
        ),
        pytest.param(
            "  judge-0: {job: x}\n",
            ["r.yaml:3: roles.judge-0: 'judge-0' cannot be a role's name; the run has files or keys of that name."],
            id="a replica's name",
        ),
        pytest.param(
            "  restarts: {job: x}\n",
            ["r.yaml:3: roles.restarts: 'restarts' cannot be a role's name; the run has files or keys of that name."],
            id="a key's name",
        ),
        pytest.param(
            '  a: {job: x}\n  b:\n    job: x\n    with:\n      m: "{a.out}"\n',
            [
                "r.yaml:7: roles.b.with.m: {a.out} may not exist when 'b' starts. "
                "Add 'a' to 'after' of 'b', or to 'needs' if it is a service."
            ],
            id="a placeholder nobody waits for",
        ),
        pytest.param(
            '  judge: {job: x}\n  b: {job: x, needs: judge, with: {m: ["{jugde.url}"]}}\n',
            ["r.yaml:4: roles.b.with.m.0: {jugde.url} names no role of this recipe. Did you mean 'judge'?"],
            id="a placeholder of no role",
        ),
        pytest.param(
            "  a: {job: x}\n  b: {job: x, after: a, with: {m: {a.out}}}\n",
            ['r.yaml:4: roles.b.with.m: YAML reads {a.out} as a mapping. Write "{a.out}" in quotes.'],
            id="a placeholder without quotes",
        ),
        pytest.param(
            "  a: {job: x, environment: {HF_TOKEN: hf_123}}\n",
            [
                "r.yaml:3: roles.a.environment.HF_TOKEN: A secret in a recipe or profile ends in plan.json and in "
                "logs. Export the variable before 'submit', or name a file that holds the secret."
            ],
            id="a secret",
        ),
        pytest.param(
            "  a: {job: x, slurm: {environment: {ORCH_ROLE: b}}}\n",
            ["r.yaml:3: roles.a.slurm.environment.ORCH_ROLE: ORCH_ variables are set by the supervisor."],
            id="a variable of ours",
        ),
        pytest.param(
            "  a: {job: x, slurm: {setup: rm}}\n",
            ["r.yaml:3: roles.a.slurm.setup: No such key. Known keys: "],
            id="code in a recipe",
        ),
        pytest.param(
            "  s: {url: 'http://h/v1', with: {model: m}}\n",
            [
                "r.yaml:3: roles.s.url: Only a service, a role that another one needs, can run elsewhere. "
                "Take the url out, or add the role to a 'needs'."
            ],
            id="a batch role elsewhere",
        ),
        pytest.param(
            "  t: {job: x}\n  s: {url: 'http://h/v1', after: t, with: {model: '{t.m}', modl: 1}}\n"
            "  a: {job: x, needs: s}\n",
            [
                "r.yaml:4: roles.s.with.model: A service that runs elsewhere must be asked for a model by the name it "
                "has there. Write with: {model: NAME}.",
                "r.yaml:4: roles.s.with.modl: No such key. Did you mean 'model'?",
            ],
            id="settings of a service elsewhere",
        ),
        pytest.param(
            "  s: {url: 'http://me:secret@h/v1', with: {model: m}}\n  a: {job: x, needs: s}\n",
            [
                "r.yaml:3: roles.s.url: 'http://me:secret@h/v1' is not the base URL of an OpenAI API. "
                "Write 'https://host:port/v1'."
            ],
            id="an address with a password",
        ),
    ],
)
def test_roles_that_cannot_work_together(tmp_path: Path, roles: str, expected: list[str]) -> None:
    found = problems(tmp_path, f"name: a\nroles:\n{roles}")

    assert len(found) == len(expected)
    assert all(problem.startswith(wanted) for problem, wanted in zip(found, expected, strict=True)), found


def test_one_override_sends_a_service_elsewhere(tmp_path: Path) -> None:
    text = (
        "name: a\nroles:\n  s: {job: judge, gpus_per_node: 8, with: {model: m, engine: vllm}}\n  a: {job: x, needs: s}"
    )

    read = recipe.load(write(tmp_path, "r.yaml", text), ["s.url=https://h:8000/v1", "s.slurm.partition=big"])

    assert (read.roles["s"].url, read.roles["s"].slurm.partition) == ("https://h:8000/v1", "big")


@pytest.mark.parametrize(
    ("text", "meant"),
    [("24:00:00", 86_400), ("2-00:00:00", 172_800), ("0:00:30", 30), ("90m", 5400), ("1d12h", 129_600), ("45s", 45)],
)
def test_spans_of_time(text: str, meant: int) -> None:
    assert recipe.seconds(text) == meant


@pytest.mark.parametrize("text", ["4:00", "24", "", "0s", "1h1d", "12:60:00", "one hour", "-1h", "1.5h"])
def test_what_is_no_span_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a span of time"):
        recipe.seconds(text)


def test_a_time_limit_without_a_unit_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, "name: a\ntime_limit: 90\nroles:\n  b: {job: x}\n") == [
        "r.yaml:2: time_limit: 90 has no unit. Write '24:00:00', '2-00:00:00', '90m' or '1d12h'."
    ]


BASE = "name: base\nroles:\n  a: {job: x, nodes: 2, with: {deep: {one: 1, two: 2}, list: [1, 2]}}\ntime_limit: 1h\n"


def test_extends_merges_mappings_replaces_lists_and_takes_out_nulls(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)

    read = sound(
        tmp_path,
        "extends: base.yaml\nname: mine\n"
        "roles:\n  a: {nodes: null, with: {deep: {two: 3}, list: [9]}}\n  b: {job: y}\n",
    )

    assert (read.name, read.time_limit, read.roles["a"].nodes) == ("mine", "1h", 1)
    assert read.roles["a"].settings == {"deep": {"one": 1, "two": 3}, "list": [9]}
    assert list(read.roles) == ["a", "b"]


def test_a_problem_names_the_file_that_set_the_value(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE.replace("nodes: 2", "nodes: two"))

    assert problems(tmp_path, "extends: base.yaml\nname: Mine\n") == [
        "r.yaml:2: name: String should match pattern '^[a-z0-9][a-z0-9-]*$', got 'Mine'.",
        "base.yaml:3: roles.a.nodes: Input should be a valid integer, got 'two'.",
    ]


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", "extends: a.yaml\n")
    path = write(tmp_path, "a.yaml", "name: a\nextends: b.yaml\n")

    with pytest.raises(InputError, match=r"b\.yaml:1: extends: 'a\.yaml' leads back to"):
        recipe.read(path)


def test_extends_of_a_missing_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "name: a\nextends: none.yaml\n")

    with pytest.raises(InputError, match=r"a\.yaml:2: extends: there is no recipe .*none\.yaml"):
        recipe.read(path)


def test_the_hash_changes_with_the_meaning_and_not_with_the_layout(tmp_path: Path) -> None:
    one = recipe.read(write(tmp_path, "one.yaml", "name: a\nroles:\n  b: {job: x}\n"))
    same = recipe.read(write(tmp_path, "two.yaml", "# comment\nroles: {b: {job: 'x'}}\nname: a\n"))
    other = recipe.read(write(tmp_path, "two.yaml", "name: a\nroles:\n  b: {job: y}\n"))

    assert one.sha256 == same.sha256
    assert one.sha256 != other.sha256


@pytest.mark.parametrize("text", ["- a\n", "word\n"])
def test_what_is_no_mapping_is_no_recipe(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"r\.yaml:1: a recipe is a mapping of keys to values"):
        recipe.read(write(tmp_path, "r.yaml", text))


@pytest.mark.parametrize(
    "text", ["name: a\n", "name: a\nroles: []\n", "name: a\nroles: {}\n", "name: a\nroles: {a: 1}\n"]
)
def test_a_recipe_without_proper_roles_has_a_problem(tmp_path: Path, text: str) -> None:
    assert len(problems(tmp_path, text)) == 1


_NAMES = st.sampled_from(["a", "b", "judge", "judge-0", "A", "", "name", "x" * 300, "../..", "{a.b}", "extends"])
_KEYS = st.sampled_from([*recipe.TOP_KEYS, *recipe.ROLE_KEYS, "restart", "preempted", "HF_TOKEN", "a.b"])
_LEAVES = _NAMES | st.sampled_from([None, True, 0, -1, 2**62, 0.5, "command", "no.such", "unlimited", "1h", "{a.url}"])
_ANY = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | _NAMES, inner, max_size=4),
    max_leaves=8,
)
_ROLES = st.dictionaries(_NAMES, st.dictionaries(st.sampled_from(sorted(recipe.ROLE_KEYS)), _ANY) | _ANY, max_size=3)
_RECIPES = st.fixed_dictionaries({"roles": _ROLES | _ANY}, optional=dict.fromkeys(recipe.TOP_KEYS - {"roles"}, _ANY))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_RECIPES)
def test_any_recipe_is_read_or_refused_with_a_place(tmp_path: Path, data: dict[str, object]) -> None:
    path = write(tmp_path, "fuzz.yaml", strict_yaml.dump(data))

    try:
        source = recipe.read(path)
    except InputError:
        return
    read, found = recipe.check(source)
    never = jobs_check.check(inspection.roles(source.data)).problems

    assert (read is None) == bool(found)
    assert all(problem.place.startswith(str(path)) for problem in [*found, *map(source.problem, never)])
