"""Boxes with names against all things of an image."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import coco
from eval.detection import PUBLISHED, Rules, Scales, score
from eval.target import Box, Space, System, Target
from tests.eval import garbage

Item = tuple[str, Box]
PERSON: Item = ("person", (0.0, 0.0, 100.0, 100.0))
CAR: Item = ("car", (200.0, 200.0, 300.0, 300.0))
SCALES = Scales(penalty=0.5, coverage=0.25)
ITEMS = st.lists(st.tuples(st.sampled_from(["person", "car", "toothbrush"]), garbage.boxes()), max_size=5)


def target(*items: Item, system: System = "pixel") -> Target:
    return Target(
        space=Space(system=system, width_px=1000, height_px=1000),
        boxes=tuple(box for _, box in items),
        labels=tuple(label for label, _ in items),
    )


def written(*items: Item) -> str:
    return json.dumps([{"bbox_2d": list(box), "label": label} for label, box in items])


def reward(response: str, truth: Target, **rules: object) -> float:
    return score(response, truth, "pixel", replace(PUBLISHED, **rules)).reward  # type: ignore[arg-type]


BOTH = target(PERSON, CAR)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        pytest.param((PERSON, CAR), 3.0, id="perfect"),
        pytest.param((CAR, PERSON), 3.0, id="other order"),
        pytest.param((PERSON,), 0.25 + 0.75 * 2 / 3 + 2, id="one missed"),
        pytest.param((PERSON, CAR, CAR), 0.25 + 0.75 * 4 / 5 + 2, id="one twice"),
        pytest.param((PERSON, ("person", CAR[1])), 0.25 + 0.75 + 0.5 + 1, id="one misnamed"),
        pytest.param((PERSON, ("unicorn", CAR[1])), 0.125 + 0.75 * 2 / 3 + 2, id="one of no known name"),
        pytest.param((PERSON, ("car", (300, 300, 200, 200))), 0.125 + 0.75 * 2 / 3 + 2, id="one that is no box"),
        pytest.param((("Person ", PERSON[1]), CAR), 3.0, id="capitals"),
        pytest.param((("car", (500, 500, 600, 600)),), 0.25, id="nothing found"),
        pytest.param((), 0.0, id="nothing predicted"),
    ],
)
def test_the_reward(items: tuple[Item, ...], expected: float) -> None:
    assert reward(written(*items), BOTH) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        pytest.param((PERSON, CAR), 3.0, id="perfect"),
        pytest.param((PERSON,), 0.25 + 0.5 + 2 - 0.25, id="one missed"),
        pytest.param((PERSON, CAR, CAR), 0.25 + 0.6 + 2 - 0.5 / 3, id="one superfluous"),
        pytest.param((("car", (500, 500, 600, 600)),), 0.25, id="nothing found"),
    ],
)
def test_the_penalty_is_for_superfluous_and_missed(items: tuple[Item, ...], expected: float) -> None:
    assert reward(written(*items), BOTH, scales=Scales(penalty=0.5)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("response", "expected"),
    [("[]", 3.0), (written(PERSON), 0.25), (written(("unicorn", PERSON[1])), 0.0), ("nothing", 0.0), ("", 0.0)],
)
def test_where_there_is_nothing_to_find_an_empty_list_is_perfect(response: str, expected: float) -> None:
    assert reward(response, target()) == expected


def test_text_around_the_list_costs_the_form_only() -> None:
    assert reward(f"I see {written(PERSON, CAR)}", BOTH) == pytest.approx(2.75)


def test_names_break_the_tie_between_equal_boxes() -> None:
    twins = target(PERSON, ("car", PERSON[1]))

    assert reward(written(("car", PERSON[1]), PERSON), twins) == pytest.approx(3.0)
    assert reward(written(("car", PERSON[1]), PERSON), twins, faithful=True) == pytest.approx(2.0)


def test_names_of_ones_own_replace_cocos() -> None:
    square = target(("square", PERSON[1]))

    assert reward(written(("square", PERSON[1])), square) == 0.0
    assert reward(written(("square", PERSON[1])), square, classes=("square", "disc")) == 3.0
    assert reward(written(PERSON), square, classes=("square", "disc")) == 0.0


def test_without_matching_the_order_counts() -> None:
    assert reward(written(CAR, PERSON), BOTH, matching="in_order") == 0.25
    assert reward(written(PERSON, CAR), BOTH, matching="in_order") == 3.0


def test_a_truth_without_labels_asks_for_boxes_only() -> None:
    unnamed = replace(target(PERSON), labels=())

    assert reward(written(("car", PERSON[1])), unnamed) == 3.0


@pytest.mark.parametrize(("system", "divisor"), [("pixel", 1), ("rel1000", 1), ("rel1", 1000)])
def test_the_units_of_the_model_are_told(system: System, divisor: int) -> None:
    x1, y1, x2, y2 = (value / divisor for value in CAR[1])

    assert score(written(("car", (x1, y1, x2, y2))), target(CAR), system).reward == pytest.approx(3.0)


def test_small_things_weigh_more() -> None:
    # 20 x 20 found exactly, 200 x 200 found with an overlap of 0.8.
    small, large = ("cat", (0.0, 0.0, 20.0, 20.0)), ("cat", (500.0, 500.0, 700.0, 700.0))
    response = written(small, ("cat", (500.0, 500.0, 700.0, 660.0)))

    assert score(response, target(small, large), "pixel").iou == pytest.approx(0.9)
    weighted = score(response, target(small, large), "pixel", Rules(size_weights=True))
    assert weighted.iou == pytest.approx((3 * 1 + 1 * 0.8) / 4)
    published = score(response, target(small, large), "pixel", Rules(size_weights=True, faithful=True))
    assert published.iou == pytest.approx((3 * 1 + 1 * 0.8) / (1.8 * 2))


def test_coverage_is_of_kinds_named_wherever() -> None:
    response = written(PERSON, ("car", (0, 0, 10, 10)))
    truth = target(PERSON, CAR, ("car", (400, 400, 500, 500)))

    assert score(response, truth, "pixel").coverage == pytest.approx((1 + 0.5) / 2)
    assert reward(response, truth, scales=Scales(coverage=1.0)) - reward(response, truth) == pytest.approx(0.75)


def test_an_overlap_of_exactly_the_bound_does_not_count() -> None:
    half = written(("person", (0, 0, 50, 100)))

    assert score(half, target(PERSON), "pixel").matched == 0
    assert score(half, target(PERSON), "pixel", Rules(iou_above=0.49)).matched == 1


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(written(PERSON, ("toothbrush", CAR[1])), id="the last number"),
        pytest.param(written(PERSON, ("car", (300, 300, 200, 200))), id="a box inside out"),
        pytest.param('[{"bbox_2d": [1, 2, 3], "label": "car"}]', id="three numbers"),
        pytest.param(f"<answer>{written(PERSON)}</answer>", id="an answer tag"),
        pytest.param("[]", id="an empty list"),
    ],
)
def test_published_one_fault_costs_everything(response: str) -> None:
    assert reward(response, BOTH, faithful=True) == 0.0


def test_coco_has_80_names_with_numbers_up_to_90() -> None:
    assert len(coco.NAMES) == 80
    assert (coco.IDS["person"], coco.IDS["stop sign"], coco.IDS["toothbrush"]) == (1, 13, 90)
    assert list(coco.IDS.values()) == sorted(set(coco.IDS.values()))


@settings(deadline=None)
@given(
    response=garbage.texts | ITEMS.map(lambda items: written(*items)),
    truth=garbage.targets(),
    rules=st.builds(
        Rules,
        classes=st.sampled_from([coco.NAMES, ("cat",), ("cat", "dog", "")]),
        scales=st.sampled_from([SCALES, Scales()]),
        matching=st.sampled_from(["hungarian", "in_order"]),
        size_weights=st.booleans(),
        faithful=st.booleans(),
    ),
    coordinates=st.sampled_from(["pixel", "rel1000", "rel1"]),
)
def test_any_text_against_any_truth_is_within_bounds(
    response: str, truth: Target, rules: Rules, coordinates: System
) -> None:
    found = score(response, truth, coordinates, rules)

    assert 0.0 <= found.reward <= rules.scales.most
    most = 3.0 if rules.faithful and rules.size_weights else 1.0
    assert all(0.0 <= value <= most for name, value in found.parts().items() if name != "reward")


@settings(deadline=None)
@given(items=ITEMS, truth=ITEMS, seed=st.integers())
def test_the_order_of_boxes_does_not_matter(items: list[Item], truth: list[Item], seed: int) -> None:
    shuffled, other = random.Random(seed).sample(items, len(items)), random.Random(seed).sample(truth, len(truth))

    one = score(written(*items), target(*truth), "pixel", Rules(scales=SCALES))
    two = score(written(*shuffled), target(*other), "pixel", Rules(scales=SCALES))

    assert two.reward == pytest.approx(one.reward)


@given(truth=ITEMS)
def test_saying_the_truth_is_perfect(truth: list[Item]) -> None:
    assert score(written(*truth), target(*truth), "pixel", Rules(scales=SCALES)).reward == pytest.approx(SCALES.most)
