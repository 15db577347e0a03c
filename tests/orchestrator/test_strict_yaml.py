from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import strict_yaml
from orchestrator.errors import InputError


def read(text: str) -> Any:
    return strict_yaml.plain(strict_yaml.loads(text, lambda line: f"r.yaml:{line}"))


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        read(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        pytest.param("4:00:00", "4:00:00", id="a span of time is not a number of seconds"),
        pytest.param("no", "no", id="no is a word"),
        pytest.param("on", "on", id="on is a word"),
        pytest.param("True", True, id="true is true"),
        pytest.param("1e-6", 1e-6, id="a number without a point"),
        pytest.param("010", 10, id="a leading zero is not octal"),
        pytest.param("0o17", 15, id="octal is marked"),
        pytest.param("0x1F", 31, id="hexadecimal"),
        pytest.param("1_000", "1_000", id="an underscore makes a word"),
        pytest.param("2026-01-01", "2026-01-01", id="a date is a word"),
        pytest.param("'8'", "8", id="quotes make a word"),
        pytest.param("!!str 8", "8", id="the string tag makes a word"),
        pytest.param("~", None, id="null"),
        pytest.param("", None, id="nothing is null"),
        pytest.param("9223372036854775807", 2**63 - 1, id="the largest integer"),
    ],
)
def test_a_scalar_means_what_it_looks_like(written: str, meant: object) -> None:
    value = read(f"a: {written}")["a"]

    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "a: 1\nb: 2\na: 3\n",
            "r.yaml:3: the key 'a' is already set at r.yaml:1. Keep one of the two.",
            id="equal keys",
        ),
        pytest.param(
            "a: &x {b: 1}\nc:\n  <<: *x\n",
            "r.yaml:3: merge keys ('<<') are not read. Write the keys out, or use 'extends'.",
            id="merge key",
        ),
        pytest.param(
            "a: !!python/object/apply:os.system [touch canary]\n",
            "r.yaml:1: the tag '!!python/object/apply:os.system' is not read. Values have no tags here.",
            id="tag of a program",
        ),
        pytest.param(
            "\na: .nan\n",
            "r.yaml:2: .nan is not a finite number. Write a number, or leave the key out.",
            id="not a number",
        ),
        pytest.param(
            "a: 1e999\n",
            "r.yaml:1: 1e999 is not a finite number. Write a number, or leave the key out.",
            id="overflow",
        ),
        pytest.param(
            "a: 9223372036854775808\n",
            "r.yaml:1: 9223372036854775808 is too large. Integers end at 9223372036854775807.",
            id="huge integer",
        ),
        pytest.param(
            "8: x\n",
            "r.yaml:1: a key must be a word, got 8. Put quotes around it to make it a word.",
            id="number as key",
        ),
        pytest.param(
            "? [a]\n: x\n",
            "r.yaml:1: a key must be a word, got a mapping or a list. Put quotes around it to make it a word.",
            id="list as key",
        ),
        pytest.param("# only a comment\n", "r.yaml:1: is empty. Nothing is described.", id="empty"),
        pytest.param("a: b: c\n", "r.yaml:1: is not valid YAML: mapping values are not allowed here.", id="syntax"),
        pytest.param("a: 1\x00", "r.yaml:1: has the unprintable character U+0000.", id="zero byte"),
        pytest.param(
            'a: "\\0"',
            "r.yaml:1: has the character U+0000, which no file holds. Remove it.",
            id="escaped zero byte",
        ),
        pytest.param(
            "a: 1\nb: ab\u202ecd\n",
            "r.yaml:2: has the invisible character U+202E, which changes the order in which the line is shown. "
            "Remove it.",
            id="hidden text direction",
        ),
    ],
)
def test_what_would_be_misread_is_refused_with_its_line(text: str, message: str) -> None:
    assert refusal(text) == message


def test_an_alias_bomb_is_refused_before_it_expands() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]

    assert "more than 20000 values once its aliases are followed" in refusal("\n".join(lines))


def test_an_alias_to_itself_is_refused() -> None:
    assert "nested more than 40 levels deep" in refusal("a: &x [*x]")


def test_twenty_thousand_brackets_are_refused_without_a_recursion_error() -> None:
    assert "nested more than 40 levels deep" in refusal("[" * 20_000)


def test_an_alias_that_is_no_bomb_is_followed() -> None:
    assert read("a: &x {b: 1}\nc: *x\n") == {"a": {"b": 1}, "c": {"b": 1}}


def test_a_file_that_is_no_recipe_for_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_text("a: " + "x" * 300_000)

    with pytest.raises(InputError, match="larger than 256 KiB"):
        strict_yaml.load(path)


def test_a_file_that_is_not_text_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"a: 1\nb: \xe9\n")

    with pytest.raises(InputError, match=r"latin\.yaml:2: is not UTF-8 text"):
        strict_yaml.load(path)


def test_every_value_knows_its_line() -> None:
    node = strict_yaml.loads("a:\n  b: 1\n  c:\n  - x\n  - y\n", lambda line: f"r.yaml:{line}")

    assert strict_yaml.place_of(node, ("a", "b")) == "r.yaml:2"
    assert strict_yaml.place_of(node, ("a", "c", 1)) == "r.yaml:5"


def test_a_missing_key_is_placed_where_it_should_be() -> None:
    node = strict_yaml.loads("a:\n  b: 1\nc: 2\n", lambda line: f"r.yaml:{line}")

    assert strict_yaml.place_of(node, ("a", "nothing", "below")) == "r.yaml:1"


@given(st.text(max_size=60) | st.text(alphabet="ab:- \n[]{}&*!|>'\"#%0123.e~<,?\\x", max_size=60))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    try:
        data, refused = read(text), None
    except InputError as error:
        data, refused = None, str(error)

    assert refused is None or refused.startswith("r.yaml:")
    assert json.loads(json.dumps(data)) == data


_SCALAR = (
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
_WORD = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Cn", "Co", "Zl", "Zp"]), max_size=12)
_TRICKY = st.sampled_from(
    ["no", "1e-6", "4:00:00", "0o7", "null", "", "~", ".inf", "<<", "=", "1_0", "0x1", "yes", "{a.b}"]
)


@given(
    st.dictionaries(
        _WORD.filter(lambda key: key != "<<"),
        st.recursive(_SCALAR | _WORD | _TRICKY, lambda inner: st.lists(inner, max_size=3), max_leaves=6),
        max_size=4,
    )
)
def test_what_is_dumped_is_read_back_unchanged(data: dict[str, Any]) -> None:
    back = read(strict_yaml.dump(data))

    assert back == data
    assert repr(back) == repr(data)
