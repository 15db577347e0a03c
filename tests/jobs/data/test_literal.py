"""Texts of the data are read as literals; nothing in them is ever run."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.data import literal

garbage = st.one_of(
    st.text(),
    st.text(alphabet="[](){}'\":,0123456789.-eE jlNTFx\\\n", max_size=60),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
)


@pytest.mark.parametrize(
    "read", [literal.read, literal.box, literal.boxes, literal.points, literal.count], ids=lambda read: read.__name__
)
@given(given_value=garbage)
def test_garbage_is_a_value_or_a_value_error_and_nothing_else(read: Any, given_value: Any) -> None:
    with contextlib.suppress(ValueError):
        read(given_value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("__import__('os').getcwd()", id="a call"),
        pytest.param("(lambda: [1, 2, 3, 4])()", id="a function"),
        pytest.param("[1, 2, 3, 2 ** 9]", id="arithmetic"),
        pytest.param("[x for x in (1, 2, 3, 4)]", id="a comprehension"),
        pytest.param("[" * 5000 + "]" * 5000, id="too deep"),
        pytest.param("1" * 5000, id="more digits than Python converts"),
        pytest.param("[1, 2, 3, 4]" + " " * literal.LONGEST, id="too long"),
        pytest.param("\0", id="a null byte"),
    ],
)
def test_what_is_more_than_a_literal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither JSON nor a literal|too long"):
        literal.value(text)


@pytest.mark.parametrize(
    "given_box",
    [
        [1, 2, 3.5, 4],
        "[1, 2, 3.5, 4]",
        "(1, 2, 3.5, 4)",
        "(1, 2), (3.5, 4)",
        [[1, 2], [3.5, 4]],
        "[[1, 2, 3.5, 4]]",
        " [1,2,3.5,4]\n",
    ],
)
def test_a_box_may_be_written_in_many_ways(given_box: Any) -> None:
    assert literal.box(given_box) == (1.0, 2.0, 3.5, 4.0)


@pytest.mark.parametrize(
    "given_box", [[1, 2, 3], [3, 2, 1, 4], [1, 4, 3, 4], [1, 2, "3", 4], [1, 2, True, 4], "[1, 2, NaN, 4]", "cat", None]
)
def test_what_is_no_box_is_an_error_that_shows_it(given_box: Any) -> None:
    with pytest.raises(ValueError, match=r"got|literal"):
        literal.box(given_box)


def test_points_are_pairs_or_named_or_in_columns() -> None:
    wanted = ((1.0, 2.0), (3.0, 4.0))

    assert literal.points("[[1, 2], [3, 4]]") == wanted
    assert literal.points([{"x": 1, "y": 2}, {"x": 3, "y": 4}]) == wanted
    assert literal.points({"x": [1, 3], "y": [2, 4]}) == wanted
    assert literal.points([]) == ()


def test_python_dictionaries_of_published_files_are_read() -> None:
    assert literal.value("{'target_id': [1], 'target_box': [(1, 2, 3, 4)]}") == {
        "target_id": [1],
        "target_box": [(1, 2, 3, 4)],
    }
