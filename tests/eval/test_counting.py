"""As many points as there are things, at the right places."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.box_text import Writes
from eval.counting import score, stated, well_formed
from eval.matching import Matching
from eval.target import Point, Space, System, Target
from tests.eval import garbage

PEOPLE = "<|object_ref_start|>people<|object_ref_end|>"
POINTS = st.lists(st.tuples(garbage.inside, garbage.inside), min_size=1, max_size=6)


def target(*points: Point, count: int | None = None, system: System = "rel1000") -> Target:
    return Target(space=Space(system=system, width_px=500, height_px=200), points=points, count=count)


def marked(*corners: str, end: str = "<|im_end|>") -> str:
    return PEOPLE + "".join(f"<|box_start|>{each}<|box_end|>" for each in corners) + end


def written(points: list[Point]) -> str:
    return ", ".join(f"({x}, {y})" for x, y in points)


TWO = target((221, 343), (476, 173))


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        pytest.param("(211,333),(231,353) (466,163),(486,183)", 1.0, id="boxes"),
        pytest.param("(466,163),(486,183)(211,333),(231,353)", 1.0, id="other order"),
        pytest.param("(221, 343); (476, 173)", 1.0, id="points apart"),
        pytest.param("(221, 343)", 0.5, id="one of two"),
        pytest.param("(221, 343); (476, 173); (476, 173); (476, 173)", 0.5, id="twice as many"),
        pytest.param("2", 0.0, id="a bare number where places are asked"),
        pytest.param("none", 0.0, id="nothing"),
    ],
)
def test_number_and_place_are_multiplied(response: str, reward: float) -> None:
    assert score(response, TWO, "rel1000").reward == pytest.approx(reward)


def test_the_distance_is_a_share_of_the_diagonal() -> None:
    far = score("(0, 0)", target((1000, 1000)), "rel1000")
    beyond = score("(-5000, -5000)", target((1000, 1000)), "rel1000")
    near = score("(0, 0)", target((300, 400)), "rel1000")

    assert (far.reward, beyond.reward) == (pytest.approx(0.0), 0.0)
    assert near.reward == pytest.approx(1 - 500 / (1000 * math.sqrt(2)))


def test_in_order_is_worse_where_the_order_differs() -> None:
    response = "(476, 173); (221, 343)"

    assert score(response, TWO, "rel1000", matching="in_order").reward < 0.9
    assert score(response, TWO, "rel1000").reward == 1.0


@pytest.mark.parametrize(
    "response", ["(221, 343), (476, 173)", "[[476, 173], [221, 343]]", "[471, 168, 481, 178] (221, 343)"]
)
def test_a_model_that_writes_points_says_so(response: str) -> None:
    assert score(response, TWO, "rel1000", writes="points").reward == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("response", "system"),
    [("(110.5, 68.6)", "pixel"), ("(221, 343)", "rel1000"), ("(0.221, 0.343)", "rel1")],
)
def test_the_units_of_the_model_are_told(response: str, system: System) -> None:
    assert score(response, target((221, 343)), system).reward == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("response", "reward", "exact"),
    [
        pytest.param("0", 1.0, True, id="none, said"),
        pytest.param("[]", 1.0, True, id="an empty list"),
        pytest.param("", 0.0, False, id="nothing said"),
        pytest.param("(1, 1)", 0.0, False, id="one"),
    ],
)
def test_where_there_is_nothing_to_count(response: str, reward: float, exact: bool) -> None:
    found = score(response, target(count=0), "rel1000")

    assert (found.reward, found.exact) == (reward, exact)


def test_a_truth_that_is_a_number_only_asks_for_no_places() -> None:
    assert score("3", target(count=3), "rel1000").reward == 1.0
    assert score("(1, 1); (2, 2)", target(count=4), "rel1000").reward == 0.5


def test_the_metrics_of_an_answer() -> None:
    assert score("(221, 343)", TWO, "rel1000").parts() == {"exact": 0.0, "error": 1.0, "ratio": 0.5, "closeness": 1.0}
    assert math.isnan(score("none", TWO, "rel1000").parts()["error"])


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("There are 12 cats.", 12),
        ("1, then 2, so 3", 3),
        ("<think>5</think><answer>4</answer>", 4),
        ("1.5", None),
        ("1,000", None),
        ("-3", None),
        ("B2", None),
        ("9" * 50, None),
        ("none", None),
    ],
)
def test_the_last_whole_number_is_what_was_stated(response: str, expected: int | None) -> None:
    assert stated(response) == expected


@pytest.mark.parametrize(
    ("response", "expected", "published"),
    [
        pytest.param(marked("(1,1),(3,3)"), True, True, id="one"),
        pytest.param(marked("(1,1),(3,3)", "(5,5),(7,7)"), True, True, id="two"),
        pytest.param(marked("(1,1),(3,3)", end=""), True, False, id="without end token"),
        pytest.param(marked("(1,1),(3,3)", end="<|im_end|><|endoftext|>"), True, True, id="padding"),
        pytest.param(marked("(1,1),(3,3)", end=" and more"), False, False, id="text behind"),
        pytest.param(marked(), False, False, id="no box"),
        pytest.param(marked("(1,1),(3,3)").removeprefix(PEOPLE), False, False, id="no name"),
        pytest.param(marked("(1,1),(3,3)<|box_end|>\n<|box_start|>(5,5),(7,7)"), False, False, id="a line between"),
    ],
)
def test_the_form(response: str, expected: bool, published: bool) -> None:
    assert well_formed(response) is expected
    assert well_formed(response, faithful=True) is published


@settings(deadline=None)
@given(
    response=garbage.texts,
    truth=garbage.targets(),
    writes=st.sampled_from(["boxes", "points"]),
    matching=st.sampled_from(["hungarian", "in_order"]),
)
def test_any_text_against_any_truth_is_between_0_and_1(
    response: str, truth: Target, writes: Writes, matching: Matching
) -> None:
    found = score(response, truth, "rel1000", writes=writes, matching=matching)

    assert 0.0 <= found.reward <= 1.0
    score(response, truth, "pixel", faithful=True)


@given(points=POINTS, truth=POINTS, seed=st.integers())
def test_the_order_of_points_does_not_matter(points: list[Point], truth: list[Point], seed: int) -> None:
    shuffled, other = random.Random(seed).sample(points, len(points)), random.Random(seed).sample(truth, len(truth))

    one = score(written(points), target(*truth), "rel1000", writes="points").reward

    assert score(written(shuffled), target(*other), "rel1000", writes="points").reward == pytest.approx(one)


@given(points=POINTS)
def test_saying_the_truth_is_1(points: list[Point]) -> None:
    assert score(written(points), target(*points), "rel1000", writes="points").reward == pytest.approx(1.0)
