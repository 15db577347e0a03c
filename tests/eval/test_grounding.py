"""One box for what a text refers to."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from eval.grounding import as_published, iou_of, score, well_formed
from eval.target import Box, Space, System, Target
from tests.eval import garbage

FORMED = "<|object_ref_start|>a dog<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"


def target(*boxes: Box, system: System = "rel1000", width_px: int = 500, height_px: int = 200) -> Target:
    return Target(space=Space(system=system, width_px=width_px, height_px=height_px), boxes=boxes)


TRUTH = target((100, 100, 500, 300))


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        pytest.param("<|box_start|>(100,100),(500,300)<|box_end|>", 1.0, id="right"),
        pytest.param("[100, 100, 300, 300]", 0.5, id="half"),
        pytest.param("[0, 0, 10, 10] [100, 100, 500, 300]", 0.0, id="only the first counts"),
        pytest.param("<think>[0, 0, 9, 9]</think><answer>[100, 100, 500, 300]</answer>", 1.0, id="after thinking"),
        pytest.param("(500,100),(100,300)", 0.0, id="turned inside out"),
        pytest.param("nothing", 0.0, id="no box"),
    ],
)
def test_the_reward_is_the_overlap(response: str, expected: float) -> None:
    assert iou_of(response, TRUTH, "rel1000") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("response", "system"),
    [("[50, 20, 250, 60]", "pixel"), ("[100, 100, 500, 300]", "rel1000"), ("[0.1, 0.1, 0.5, 0.3]", "rel1")],
)
@pytest.mark.parametrize("true_in", ["pixel", "rel1000", "rel1"])
def test_the_units_of_model_and_truth_are_their_own(response: str, system: System, true_in: System) -> None:
    boxes = TRUTH.boxes_in(true_in).tolist()

    assert iou_of(response, target(tuple(boxes[0]), system=true_in), system) == pytest.approx(1.0)


def test_any_of_several_true_boxes_is_right() -> None:
    assert iou_of("[0, 0, 10, 10]", target((100, 100, 500, 300), (0, 0, 10, 10)), "rel1000") == 1.0
    assert iou_of("[0, 0, 10, 10]", target(), "rel1000") == 0.0


def test_the_metrics_of_an_answer() -> None:
    found = score("[100, 100, 300, 300]", TRUTH, "rel1000")

    assert found.box == (100.0, 100.0, 300.0, 300.0)
    assert found.parts() == {
        "iou": 0.5,
        "acc@0.1": 1.0,
        "acc@0.3": 1.0,
        "acc@0.5": 1.0,
        "acc@0.75": 0.0,
        "acc@0.95": 0.0,
        "centre": 1.0,
    }


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("[0.1, 0.25, 0.5, 0.9999]", (100.0, 250.0, 500.0, 999.0)),
        ("<|box_start|>(1,2),(3,4)<|box_end|><|endoftext|>", (1.0, 2.0, 3.0, 4.0)),
        ("(1,2) , (3,4)", None),
    ],
)
def test_published_numbers_without_the_token_are_shares(response: str, expected: Box | None) -> None:
    assert as_published(response) == expected


@pytest.mark.parametrize(
    ("response", "expected", "published"),
    [
        pytest.param(FORMED, True, True, id="bare"),
        pytest.param(f"{FORMED}<|im_end|>\n", True, True, id="end token"),
        pytest.param(FORMED * 2, False, True, id="two boxes"),
        pytest.param(FORMED.replace("(3,4)", "cat"), False, True, id="no corner"),
        pytest.param(FORMED.removesuffix("<|box_end|>"), False, True, id="cut off"),
        pytest.param(f"Here: {FORMED}", False, False, id="text before"),
        pytest.param("<", False, True, id="a bracket"),
        pytest.param("[1, 2, 3, 4]", False, False, id="another way of writing"),
    ],
)
def test_the_form(response: str, expected: bool, published: bool) -> None:
    assert well_formed(response) is expected
    assert well_formed(response, faithful=True) is published


@settings(deadline=None)
@given(response=garbage.texts, truth=garbage.targets())
def test_any_text_against_any_truth_is_between_0_and_1(response: str, truth: Target) -> None:
    for faithful in (False, True):
        assert 0.0 <= iou_of(response, truth, "pixel", faithful=faithful) <= 1.0
        parts = score(response, truth, "rel1", faithful=faithful).parts()
        assert all(0.0 <= value <= 1.0 for value in parts.values())
        well_formed(response, faithful=faithful)


@given(box=garbage.boxes(), other=garbage.boxes())
def test_saying_the_truth_is_1_and_exchanging_both_changes_nothing(box: Box, other: Box) -> None:
    assert iou_of(str(list(box)), target(box), "rel1000") == 1.0
    assert iou_of(str(list(box)), target(other), "rel1000") == iou_of(str(list(other)), target(box), "rel1000")
