from __future__ import annotations

from typing import Any

import pytest

from orchestrator import overrides, strict_yaml
from orchestrator.errors import InputError
from orchestrator.recipe import ROLE_KEYS, TOP_KEYS

RECIPE = """\
name: a
roles:
  train:
    job: grpo
    nodes: 1
    with: {steps: 60, data: {path: x}, tags: [a, b]}
  judge: {job: judge}
time_limit: 1h
"""


def apply(*given: str) -> Any:
    tree = strict_yaml.loads(RECIPE, lambda line: f"r.yaml:{line}")
    return strict_yaml.plain(overrides.apply(tree, given, top=TOP_KEYS, role=ROLE_KEYS))


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        apply(text)
    return str(caught.value)


def test_the_full_path_sets_a_value() -> None:
    assert apply("roles.train.with.steps=3")["roles"]["train"]["with"]["steps"] == 3


def test_a_role_and_a_setting_are_enough() -> None:
    assert apply("train.steps=3") == apply("roles.train.with.steps=3")


def test_a_key_of_roles_is_set_on_the_role_itself() -> None:
    changed = apply("judge.nodes=2")["roles"]["judge"]

    assert changed == {"job": "judge", "nodes": 2}


def test_mappings_on_the_way_are_made() -> None:
    assert apply("judge.a.b=1")["roles"]["judge"]["with"] == {"a": {"b": 1}}


def test_the_later_override_wins() -> None:
    assert apply("train.steps=1", "train.steps=2")["roles"]["train"]["with"]["steps"] == 2


def test_null_takes_the_key_out() -> None:
    assert "steps" not in apply("train.steps=null")["roles"]["train"]["with"]


def test_taking_out_what_is_not_there_changes_nothing() -> None:
    assert apply("train.nothing=null") == apply()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        pytest.param("1e-6", 1e-6, id="number"),
        pytest.param('"8"', "8", id="quoted number"),
        pytest.param("[1, a]", [1, "a"], id="list"),
        pytest.param("{a: 1, b: {c: true}}", {"a": 1, "b": {"c": True}}, id="mapping"),
        pytest.param("", "", id="empty string"),
        pytest.param("a=b", "a=b", id="equals sign in the value"),
        pytest.param("{tiny.policy}", "{tiny.policy}", id="placeholder without quotes"),
        pytest.param("{tiny.policy}/sub", "{tiny.policy}/sub", id="placeholder with more behind it"),
        pytest.param("4:00:00", "4:00:00", id="span of time"),
    ],
)
def test_a_value_is_written_as_in_a_recipe(written: str, meant: object) -> None:
    assert apply(f"train.x={written}")["roles"]["train"]["with"]["x"] == meant


def test_a_key_with_a_dot_goes_in_quotes() -> None:
    assert apply('train."v1.5"=1')["roles"]["train"]["with"]["v1.5"] == 1


def test_an_override_is_the_place_of_what_it_set() -> None:
    tree = strict_yaml.loads(RECIPE, lambda line: f"r.yaml:{line}")

    changed = overrides.apply(tree, ["train.steps=3"], top=TOP_KEYS, role=ROLE_KEYS)

    assert strict_yaml.place_of(changed, ("roles", "train", "with", "steps")) == "override 'train.steps=3'"
    assert strict_yaml.place_of(changed, ("roles", "train", "with", "data")) == "r.yaml:6"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "steps",
            "override 'steps': is not an assignment on one line. Write key.path=value, for example train.steps=3.",
            id="no equals sign",
        ),
        pytest.param(
            "train.\udc80=3",
            "override 'train.\\udc80=3': is not an assignment on one line. "
            "Write key.path=value, for example train.steps=3.",
            id="bytes that are no text",
        ),
        pytest.param(
            "trian.steps=3",
            "override 'trian.steps=3': the recipe has neither a key nor a role 'trian'. Did you mean 'train'?",
            id="misspelt role",
        ),
        pytest.param(
            "tme_limit=1h",
            "override 'tme_limit=1h': the recipe has neither a key nor a role 'tme_limit'. Did you mean 'time_limit'?",
            id="misspelt key",
        ),
        pytest.param(
            "train.steps.x=3",
            "override 'train.steps.x=3': 'x' lies in a value that is not a mapping, set at r.yaml:6.",
            id="below a number",
        ),
        pytest.param(
            "train.x=[1",
            "override 'train.x=[1': is not valid YAML: while parsing a flow sequence: "
            "expected ',' or ']', but got '<stream end>'.",
            id="broken value",
        ),
        pytest.param(
            "train.x=!!python/name:os.system",
            "override 'train.x=!!python/name:os.system': the tag '!!python/name:os.system' is not read. "
            "Values have no tags here.",
            id="tag of a program",
        ),
    ],
)
def test_what_cannot_be_applied_is_refused(text: str, message: str) -> None:
    assert refusal(text) == message
