"""Every measured behaviour of PR1's evaluation scripts (at 48d5558), against our tasks.

A *spec* is reproduced with ``faithful``, and without wherever ``DECISIONS`` does not say otherwise. For
a *surprise* or a *bug* it says what ours gives and why. The cases are those of
``tests/cases/seed_rewards.json``, or of the file that ``REWARD_CASES`` names.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from eval import coco_map, tasks
from eval.target import Space, Target
from eval.tasks import Measured, Options, detection
from jobs.data import Example
from tests.eval.tasks.rows import row_of

SHIPPED = Path(__file__).parents[1] / "cases/seed_rewards.json"
GIVEN = Path(os.environ.get("REWARD_CASES", SHIPPED))
PREFIXES = ("b-eg-", "b-ec-", "b-ed-", "b-eo-")
IMAGE_PX = 1000

DECISIONS: dict[str, tuple[Any, str]] = {
    "b-eg-01": (
        {
            "pred": [100.0, 100.0, 500.0, 300.0],
            "IoU": 1.0,
            "ACC": [True] * 5,
            "Center_ACC": True,
        },
        "Changed: a box that is the true box overlaps it whole; published, 1e-10 is added to the union.",
    ),
    "b-eg-02": (
        {
            "pred": [100.0, 100.0, 300.0, 300.0],
            "IoU": 0.5,
            "ACC": [True, True, True, False, False],
            "Center_ACC": True,
        },
        "Changed: half is half, so it reaches the threshold 0.5; published, 1e-10 makes it a miss.",
    ),
    "b-ed-02": (
        [
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 100, 100], "score": 1.0},
            {"image_id": 7, "category_id": 1, "bbox": [1, 1, 1, 1], "score": 1.0},
        ],
        "Changed: a malformed entry costs itself; what follows it was read all the same.",
    ),
    "b-ed-05": (
        {"mAP": 0.8349834983498348, "mAP_50": 0.834983498349835, "mAP_75": 0.834983498349835, "AR@100": 1.0},
        "Kept, and said in the summary (B5 #11): boxes of one score rank by image id, then as they were written.",
    ),
    "b-ed-06": (
        {"mAP": 2 / 3, "mAP_50": 2 / 3, "mAP_75": 2 / 3, "AR@100": 1.0},
        "Kept, as b-ed-05.",
    ),
    "b-ed-07": (0.0, "Changed: no box in any image is an AP of 0, which is a result, not a crash."),
    "b-ed-08": ([1, 2, 3], "Changed (B5 #10): every image of the ground truth is asked and counted."),
    "b-eo-02": (
        {"bleu": 0.0, "f_measure": 2 / 3, "precision": 1.0, "recall": 0.5, "edit_dist": 0.5},
        "Changed: 'the' stands there twice and was read once; and no sequence of four words is a BLEU of 0.",
    ),
    "b-eo-04": (
        {"bleu": 0.0, "f_measure": 0.0, "precision": 0.0, "recall": 0.0, "edit_dist": 1.0},
        "Changed (B5 #13): an empty page has numbers, so the mean over pages exists.",
    ),
    "b-eo-05": (9, "Changed (B5 #13): nothing is cut into parts beforehand; each page goes to whoever is free."),
}
"""What ours gives without ``faithful`` where that is not what was published, and why."""
FAITHFUL_TOO = ("b-ed-07", "b-ed-08", "b-eo-04", "b-eo-05")
"""Where the published scripts fail, ``faithful`` cannot follow them."""


def cases(path: Path = GIVEN) -> list[dict[str, Any]]:
    """Return the cases of evaluation scripts."""
    found = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return [case for case in found if case["id"].startswith(PREFIXES)]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["id"])
def test_every_seed_case_is_reproduced_or_decided(case: dict[str, Any]) -> None:
    expected = DECISIONS[case["id"]][0] if case["id"] in DECISIONS else published(case)

    assert_equal(ours(case, faithful=False), expected, case["tol"])


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["id"])
def test_faithful_gives_the_published_value(case: dict[str, Any]) -> None:
    expected = DECISIONS[case["id"]][0] if case["id"] in FAITHFUL_TOO else published(case)

    assert_equal(ours(case, faithful=True), expected, case["tol"])


def test_every_case_that_is_no_spec_has_a_decision() -> None:
    assert {case["id"] for case in cases(SHIPPED) if case["flag"] != "spec"} <= set(DECISIONS)


def published(case: dict[str, Any]) -> Any:
    """Return the published value in the form of ``ours``."""
    expected = case["expected"]
    if not case["id"].startswith("b-eg-"):
        return expected
    names = [name for name in expected if name.startswith("ACC@")]
    found = {name: expected[name] for name in ("pred", "IoU", "Center_ACC")}
    return {**found, "ACC": [expected[name] for name in names]}


def ours(case: dict[str, Any], *, faithful: bool) -> Any:
    """Return what our code gives for the case's input."""
    for name, compute in COMPUTE.items():
        if case["function"].startswith(name):
            return compute(case["input"], faithful)
    raise AssertionError(f"{case['id']}: nothing here computes {case['function']!r}.")


def measured(kind: str, response: str, *, faithful: bool, target: Target | None = None, answer: str = "") -> Measured:
    """Return what the task of a kind says of one response; boxes are thousandths."""

    async def main() -> Measured:
        measurement = tasks.build(kind, Options(faithful=faithful, coordinates="rel1000"))
        try:
            return await measurement.measure(example(kind, target, answer), response)
        finally:
            await measurement.close()

    return asyncio.run(main())


def example(kind: Any, target: Target | None, answer: str, *, name: str = "1", meta: Mapping[str, Any] = {}) -> Example:
    return Example(id=name, problem="<image>", answer=answer, images=(b"",), kind=kind, target=target, meta=meta)


def target_of(*boxes: Any, labels: tuple[str, ...] = (), count: int | None = None) -> Target:
    """Return boxes in pixels of an image of 1000 x 1000, so that pixels and thousandths are the same."""
    space = Space(system="pixel", width_px=IMAGE_PX, height_px=IMAGE_PX)
    return Target(space=space, boxes=tuple(map(tuple, boxes)), labels=labels, count=count)


def grounding(given: dict[str, Any], faithful: bool) -> dict[str, Any]:
    found = measured("grounding", given["output"], faithful=faithful, target=target_of(given["normalized_solution"]))
    boxes = found.prediction["boxes"]
    return {
        # Published, no box is a box of zeros.
        "pred": boxes[0] if boxes else [0, 0, 0, 0],
        "IoU": found.parts["iou"],
        "ACC": [found.parts[f"acc@{threshold}"] > 0 for threshold in ("0.1", "0.3", "0.5", "0.75", "0.95")],
        "Center_ACC": found.parts["centre"] > 0,
    }


def counting(given: dict[str, Any], faithful: bool) -> dict[str, Any]:
    found = measured("counting", given["output"], faithful=faithful, target=target_of(count=given["ground_truth"]))
    return {"extracted_answer": None if found.extracted is None else int(found.extracted), "correct": found.correct}


def detected(given: dict[str, Any], faithful: bool) -> list[dict[str, Any]]:
    """Return results of images that hold one thing of every category."""
    names = tuple(given["cat_name_to_id"])
    target = target_of(*([0, 0, 10, 10] for _ in names), labels=names)
    rows = []
    for number, output in zip(given["img_ids"], given["outputs"], strict=True):
        found = measured("detection", output, faithful=faithful, target=target)
        problem = example("detection", target, "", name=str(number), meta={"coco": {"image_id": number}})
        rows.append(row_of(problem, output, found))
    return detection.coco_results(rows, given["cat_name_to_id"])


def mean_precision(given: dict[str, Any], _faithful: bool) -> dict[str, float | None]:
    annotations = [
        {"id": place, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for place, (image, category, box) in enumerate(given["gt"], 1)
    ]
    images = [{"id": number, "width": IMAGE_PX, "height": IMAGE_PX} for number in given["image_ids"]]
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    found = coco_map.stats(truth, given["dt"])
    return {"mAP": found["AP"], "mAP_50": found["AP50"], "mAP_75": found["AP75"], "AR@100": found["AR_100"]}


def nothing_found(_given: dict[str, Any], faithful: bool) -> Any:
    return over_all_images([1], faithful)["AP"]


def images_counted(given: dict[str, Any], faithful: bool) -> list[int]:
    """Return the images that are in the ground truth, of answers to all of them."""
    assert over_all_images(given["img_ids"], faithful)["images"] == len(given["img_ids"])
    truth = detection.coco_truth(empty_rows(given["img_ids"], faithful), {"person": 1})
    return [image["id"] for image in truth["images"]]


def over_all_images(numbers: list[int], faithful: bool) -> dict[str, Any]:
    measurement = detection.Detection(Options(faithful=faithful))
    found: dict[str, Any] = measurement.aggregate(empty_rows(numbers, faithful))["detection"]
    return found


def empty_rows(numbers: list[int], faithful: bool) -> list[dict[str, Any]]:
    target = target_of([0, 0, 100, 100], labels=("person",))
    found = measured("detection", "[]", faithful=faithful, target=target)
    problems = [example("detection", target, "", name=str(n), meta={"coco": {"image_id": n}}) for n in numbers]
    return [row_of(problem, "[]", found) for problem in problems]


def read_page(given: dict[str, Any], faithful: bool) -> dict[str, float]:
    found = measured("ocr", given["pred"], faithful=faithful, answer=given["gt"]).parts
    names = {
        "bleu": "bleu",
        "f_measure": "f1",
        "precision": "precision",
        "recall": "recall",
        "edit_dist": "edit_distance",
    }
    return {theirs: found[mine] for theirs, mine in names.items()}


def pages_counted(given: dict[str, Any], faithful: bool) -> int:
    """Return how many pages are in the mean, of as many as the case has."""
    found = measured("ocr", "a", faithful=faithful, answer="a b")
    rows = [row_of(example("ocr", None, "a b", name=str(k)), "a", found) for k in range(given["len"])]
    splits = tasks.build("ocr", Options(faithful=faithful)).aggregate(rows)["ocr"]["splits"]
    count: int = splits["all"]["n"]
    return count


COMPUTE: dict[str, Callable[[dict[str, Any], bool], Any]] = {
    "evaluate_grounding": grounding,
    "evaluate_counting": counting,
    "COCOEvaluator._parse_output": detected,
    "COCOeval bbox": mean_precision,
    "COCO.loadRes([])": nothing_found,
    "default --sample_num": images_counted,
    "cal_per_metrics": read_page,
    "get_chunk": pages_counted,
}


def assert_equal(actual: Any, expected: Any, tolerance: float) -> None:
    """Compare numbers to a tolerance, at any depth."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name in expected:
            assert_equal(actual[name], expected[name], tolerance)
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_equal(one, other, tolerance)
    elif expected is None or isinstance(expected, bool | str):
        assert actual is expected
    else:
        assert math.isfinite(actual)
        assert actual == pytest.approx(expected, abs=max(tolerance, 1e-9), rel=0)
