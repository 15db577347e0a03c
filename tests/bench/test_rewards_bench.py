"""The bench of rewards measures what it says, and the published algorithms agree with ``faithful``."""

from __future__ import annotations

import random

import pytest

from bench import published, rewards
from eval import coco, detection
from eval.target import Target

SMALL = rewards.Scale(repeats=1, characters=300, boxes=8, answers=32, images=60, timeout_s=1.0)


def test_boxes_are_measured_and_ours_has_a_goal() -> None:
    pytest.importorskip("torch")

    found = rewards.measure_boxes(SMALL)

    assert [(figure.what, figure.who) for figure in found] == [
        (rewards.BOXES_TIME, "ours"),
        (rewards.BOXES_TIME, "published, torch and scipy"),
    ]
    assert found[0].goal == 1.0
    assert all(value > 0 for figure in found for value in figure.values)


@pytest.mark.slow
def test_pages_are_measured_and_both_sides_agree() -> None:
    ratio, ours, theirs = rewards.measure_pages(SMALL)

    assert ratio.values[0] == pytest.approx(theirs.values[0] / ours.values[0], rel=0.01)
    assert (ratio.goal, ratio.bound) == (1000.0, "at least")


@pytest.mark.slow
def test_answers_are_measured_and_one_that_hangs_changes_no_other() -> None:
    found = {figure.what: figure for figure in rewards.measure_answers(SMALL) if figure.who == "ours"}

    assert found[rewards.RATE_SHARE].goal == 0.8
    assert found[rewards.HANG_COST].goal == 1.0
    assert found[rewards.HANG_OTHERS].values == [0.0]


def test_about_half_of_the_answers_are_right() -> None:
    from eval.answers import correct

    share = sum(correct(*row) for row in rewards.answers(60)) / 60

    assert 0.3 < share < 0.7


@pytest.mark.parametrize("penalty", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(20))
def test_faithful_detection_is_the_published_algorithm(seed: int, penalty: float) -> None:
    pytest.importorskip("torch")
    response, target = rewards.scene(12, seed)
    kept = random.Random(seed).sample(range(12), 9)
    fewer = Target(
        space=target.space,
        boxes=tuple(target.boxes[place] for place in kept),
        labels=tuple(target.labels[place] for place in kept),
    )
    solution = {"target_id": [coco.IDS[label] for label in fewer.labels], "target_box": fewer.boxes}

    rules = detection.Rules(faithful=True, scales=detection.Scales(penalty=penalty))

    expected = published.detection(response, solution, penalty=bool(penalty))
    assert detection.score(response, fewer, "pixel", rules).reward == pytest.approx(expected, abs=1e-5)
