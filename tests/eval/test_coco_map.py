"""COCO's twelve numbers, against pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.coco_cases import Cases, generated
from bench.eval import FASTER, TOLERANCE, by_pycocotools
from bench.eval import coco as compared
from eval import coco, coco_map


def truth_of(*boxes: tuple[int, int, list[float]], images: int = 2) -> dict[str, Any]:
    """Return a ground truth of (image, category, box)."""
    annotations = [
        {"id": place, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for place, (image, category, box) in enumerate(boxes, 1)
    ]
    return {
        "images": [{"id": number, "width": 640, "height": 480} for number in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}],
    }


def result(image: int, box: list[float], category: int = 1, score: float = 1.0) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


SQUARE = [0.0, 0.0, 100.0, 100.0]
ELSEWHERE = [500.0, 400.0, 50.0, 50.0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scores", ["many", "few", "one"])
def test_the_twelve_numbers_are_those_of_pycocotools(seed: int, scores: str) -> None:
    truth, results = generated(Cases(images=20, boxes=15, categories=5, seed=seed, scores=scores))

    found = coco_map.stats(truth, results)

    expected = [None if value < 0 else pytest.approx(value, abs=TOLERANCE) for value in by_pycocotools(truth, results)]
    assert list(found.values()) == expected


def test_the_order_of_images_in_the_results_does_not_matter() -> None:
    truth, results = generated(Cases(images=10, boxes=12, categories=3, seed=1, scores="one"))
    backwards = [each for number in range(10, 0, -1) for each in results if each["image_id"] == number]

    assert coco_map.stats(truth, backwards) == coco_map.stats(truth, results)


def test_boxes_of_equal_score_are_ranked_as_they_were_written() -> None:
    truth = truth_of((1, 1, SQUARE), (2, 1, SQUARE))
    right_first = [result(1, SQUARE), result(1, ELSEWHERE), result(2, SQUARE)]
    wrong_first = [result(1, ELSEWHERE), result(1, SQUARE), result(2, SQUARE)]

    assert coco_map.stats(truth, right_first)["AP"] == pytest.approx(0.834983, abs=1e-6)
    assert coco_map.stats(truth, wrong_first)["AP"] == pytest.approx(2 / 3)


def test_no_box_in_any_image_is_zero_where_there_was_something_to_find() -> None:
    found = coco_map.stats(truth_of((1, 1, SQUARE)), [])

    assert found["AP"] == found["AR_100"] == found["AP_large"] == 0.0


def test_a_number_about_objects_that_do_not_exist_is_none() -> None:
    found = coco_map.stats(truth_of((1, 1, SQUARE)), [result(1, SQUARE)])

    assert found["AP_small"] is None
    assert found["AR_small"] is None
    assert found["AP_large"] == pytest.approx(1.0)


def test_an_image_in_which_nothing_was_found_counts() -> None:
    truth = truth_of((1, 1, SQUARE), (2, 1, SQUARE))

    assert coco_map.stats(truth, [result(1, SQUARE)])["AR_100"] == pytest.approx(0.5)


def test_without_any_object_there_are_no_numbers() -> None:
    assert set(coco_map.stats(truth_of(), []).values()) == {None}


def test_a_result_of_an_image_that_the_truth_lacks_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"1 results' images are not in the truth, such as 9\."):
        coco_map.stats(truth_of((1, 1, SQUARE)), [result(9, SQUARE)])


def test_what_is_given_is_left_as_it_is() -> None:
    truth, results = truth_of((1, 1, SQUARE)), [result(1, SQUARE)]

    coco_map.stats(truth, results)

    assert results == [result(1, SQUARE)]
    assert truth == truth_of((1, 1, SQUARE))


def test_coco_has_eighty_names() -> None:
    assert len(coco.IDS) == 80
    assert np.unique(list(coco.IDS.values())).tolist() == sorted(coco.IDS.values())


@pytest.mark.slow
def test_a_fortieth_of_the_benchmark_is_as_fast_and_exact_as_asked() -> None:
    found = compared(Cases(images=125, boxes=100))

    assert found.difference <= TOLERANCE
    # By the processor's time: other tests run beside this one.
    assert found.faster_cpu >= FASTER
