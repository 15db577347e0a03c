"""Boxes, points and names out of a model's text."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.box_text import boxes, first_as_published, labelled, marked, points
from eval.target import Box
from tests.eval import garbage

BOX = (1.0, 2.0, 30.0, 40.0)
CAT = '{"bbox_2d": [1, 2, 30, 40], "label": "cat"}'


@pytest.mark.parametrize(
    "text",
    [
        "<|object_ref_start|>the cat<|object_ref_end|><|box_start|>(1,2),(30,40)<|box_end|><|im_end|>",
        "the cat is at (1, 2), (30, 40).",
        "(1,2) (30,40)",
        "[1, 2, 30, 40]",
        "[ 1.0,2.0 , 30.0,40 ]",
        "(1, 2, 30, 40)",
        "[[1, 2], [30, 40]]",
        "<box>[[1, 2, 30, 40]]</box>",
        f"```json\n[{CAT}]\n```",
        "<think>[5, 6, 7, 8]?</think><answer>[1, 2, 30, 40]</answer>",
        "<think>[5, 6, 7, 8]?</think> [1, 2, 30, 40]",
    ],
)
def test_a_box_is_read_in_any_way_of_writing(text: str) -> None:
    assert boxes(text) == [BOX]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no box",
        "[1, 2, 3]",
        "[1, 2, 3, 4, 5]",
        "[1, 2, 3, x]",
        "(1,2),(3",
        "[1, 2, 3, 1e999]",
        f"[1, 2, 3, {'9' * 400}]",
        "[1, 2, 3, 10000000000]",
        "<think>[5, 6, 7, 8]</think>",
        "[(lambda: 1)(), 2, 3, 4]",
    ],
)
def test_what_is_no_box_is_not_read(text: str) -> None:
    assert boxes(text) == []


def test_boxes_come_in_the_order_of_writing_and_as_written() -> None:
    found = boxes("(500,100),(100,300) and [0.1, 0.2, 0.3, 0.4], last (-1, 2, 3, 4)")

    assert found == [(500.0, 100.0, 100.0, 300.0), (0.1, 0.2, 0.3, 0.4), (-1.0, 2.0, 3.0, 4.0)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(10,20),(30,40)<|box_end|>", [(20.0, 30.0)]),
        ("(10, 20); (30, 40)", [(10.0, 20.0), (30.0, 40.0)]),
        ('[{"point_2d": [10, 20]}, {"point_2d": [30, 40]}]', [(10.0, 20.0), (30.0, 40.0)]),
        ("three cats", []),
        ("[1, 2, 3]", []),
    ],
)
def test_points_are_centres_of_boxes_or_pairs(text: str, expected: list[tuple[float, float]]) -> None:
    assert points(text) == expected


@pytest.mark.parametrize(
    ("text", "items", "malformed", "whole"),
    [
        pytest.param(f"[{CAT}]", 1, 0, True, id="bare"),
        pytest.param(f"```json\n[{CAT}, {CAT}]\n```", 2, 0, True, id="fence"),
        pytest.param(f"<think>[{CAT}]</think><answer>[{CAT}]</answer>", 1, 0, True, id="answer"),
        pytest.param("[]", 0, 0, True, id="empty list"),
        pytest.param(f'[{CAT}, {{"label": "dog"}}]', 1, 1, True, id="no box"),
        pytest.param('[{"bbox_2d": [1, 2, 3, 4]}]', 0, 1, True, id="no name"),
        pytest.param('[{"bbox_2d": [1, 2, 3], "label": "cat"}]', 0, 1, True, id="three numbers"),
        pytest.param('[{"bbox_2d": [1, 2, 3, "4"], "label": "cat"}]', 0, 1, True, id="a number in text"),
        pytest.param('[{"bbox_2d": [1, 2, 3, true], "label": "cat"}]', 0, 1, True, id="a truth value"),
        pytest.param('[{"bbox_2d": [1, 2, 3, NaN], "label": "cat"}]', 0, 1, True, id="nan"),
        pytest.param('[{"bbox_2d": [1, 2, 3, 1e400], "label": "cat"}]', 0, 1, True, id="too large"),
        pytest.param('[{"bbox_2d": [1, 2, 3, 4], "label": 7}]', 0, 1, True, id="name is a number"),
        pytest.param("[1, null]", 0, 2, True, id="no objects"),
        pytest.param(f"[{CAT}, {CAT[:20]}", 1, 1, False, id="cut off"),
        pytest.param(f"Here: [{CAT}]", 1, 1, False, id="text around it"),
        pytest.param(CAT, 1, 1, False, id="no list"),
        pytest.param("I see a cat.", 0, 1, False, id="no JSON"),
        pytest.param("", 0, 1, False, id="nothing"),
        pytest.param("[" * 100_000, 0, 1, False, id="too deep"),
    ],
)
def test_what_can_be_read_of_a_list_is_read(text: str, items: int, malformed: int, whole: bool) -> None:
    found = labelled(text)

    assert (len(found.items), found.malformed, found.whole) == (items, malformed, whole)
    assert set(found.items) <= {("cat", BOX)}
    assert found.entries == items + malformed


def test_names_without_four_numbers_are_told_apart() -> None:
    text = '[{"bbox_2d": 3, "label": "cat"}, {"bbox_2d": [1, 2, 3, 4]}, {"label": "dog"}]'

    assert labelled(text).unboxed == ("cat",)


@given(st.lists(st.tuples(st.text(), garbage.boxes()), max_size=5))
def test_what_json_writes_is_read_back(items: list[tuple[str, Box]]) -> None:
    text = json.dumps([{"bbox_2d": list(box), "label": name} for name, box in items])
    # A name that holds a fence or a tag is not what a model is asked for.
    if "`" not in text and "<" not in text:
        assert labelled(text).items == tuple(items)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(1,2,3,4) then [5,6,7,8]", (5.0, 6.0, 7.0, 8.0)),
        ("(1,2),(3,4) then (5,6,7,8)", (5.0, 6.0, 7.0, 8.0)),
        ("(1,2) , (3,4)", None),
        ("(1,2), (3,4)", (1.0, 2.0, 3.0, 4.0)),
        ("<think>[1,2,3,4]</think>[5,6,7,8]", (1.0, 2.0, 3.0, 4.0)),
    ],
)
def test_the_published_order_of_forms(text: str, expected: Box | None) -> None:
    assert first_as_published(text) == expected


def test_the_published_evaluation_allows_a_blank_before_the_comma() -> None:
    assert first_as_published("(1,2) , (3,4)", evaluating=True) == (1.0, 2.0, 3.0, 4.0)


def test_between_box_tokens_only_two_corners_count() -> None:
    text = (
        "<|box_start|>(1,2),(30,40)<|box_end|><|box_start|>a cat<|box_end|><|box_start|>(1,2)(3,4)<|box_end|>[1,2,3,4]"
    )

    assert marked(text) == [BOX]


@settings(deadline=None)
@given(garbage.texts)
def test_no_text_raises(text: str) -> None:
    for read in (boxes, points, labelled, marked, first_as_published):
        read(text)


@pytest.mark.parametrize(
    "piece", ["(1,1)  ", "[", "[1,", "((1,2),", "{", " ", "9", "1.", "<|box_start|>", "<answer>", "<think>", "</think>"]
)
def test_reading_takes_time_in_proportion_to_the_text(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    began = time.perf_counter()

    for read in (boxes, points, labelled, marked, first_as_published):
        read(text)

    # In proportion it takes a tenth of a second; with the square of the length, minutes.
    assert time.perf_counter() - began < 5.0
