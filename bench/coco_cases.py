"""Detections that nobody made, for comparing implementations of COCO's metric: seeded, of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH_PX, HEIGHT_PX = 640, 480
SIDE_PX = (6.0, 300.0)
CROWDS = 0.02
"""Share of true boxes that stand for many objects, which the metric treats in a way of its own."""


@dataclass(frozen=True, kw_only=True)
class Cases:
    """What to generate.

    Attributes:
        images: How many.
        boxes: True boxes of each, and as many predictions.
        categories: How many.
        seed: The same seed gives the same boxes.
        scores: ``many`` different ones; ``few``, so that there are ties; ``one``, as of a language model.
    """

    images: int
    boxes: int
    categories: int = 80
    seed: int = 0
    scores: str = "many"


def generated(cases: Cases) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a ground truth and results in COCO's formats.

    Sides are spread evenly over their logarithm, so that all three sizes of COCO occur. A prediction
    is a true box, moved and stretched a little, nine times of ten under its own category.
    """
    generator = np.random.default_rng(cases.seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number in range(1, cases.images + 1):
        corner_N2 = generator.uniform(size=(cases.boxes, 2)) * [WIDTH_PX - 80, HEIGHT_PX - 80]
        side_N2 = np.exp(generator.uniform(*np.log(SIDE_PX), size=(cases.boxes, 2)))
        side_N2 = np.minimum(side_N2, [WIDTH_PX, HEIGHT_PX] - corner_N2)
        category_N = generator.integers(1, cases.categories + 1, cases.boxes)
        crowd_N = generator.random(cases.boxes) < CROWDS
        annotations += [
            {
                "id": len(annotations) + place,
                "image_id": number,
                "category_id": int(category),
                "bbox": [*corner.tolist(), *side.tolist()],
                "area": float(side.prod()),
                "iscrowd": int(crowd),
            }
            for place, (corner, side, category, crowd) in enumerate(
                zip(corner_N2, side_N2, category_N, crowd_N, strict=True), 1
            )
        ]
        results += _predictions(generator, cases, number, corner_N2, side_N2, category_N)
    images = [{"id": number, "width": WIDTH_PX, "height": HEIGHT_PX} for number in range(1, cases.images + 1)]
    categories = [{"id": number, "name": str(number)} for number in range(1, cases.categories + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _predictions(
    generator: np.random.Generator,
    cases: Cases,
    number: int,
    corner_N2: np.ndarray,
    side_N2: np.ndarray,
    category_N: np.ndarray,
) -> list[dict[str, Any]]:
    moved_N2 = corner_N2 + generator.normal(0.0, 0.1, corner_N2.shape) * side_N2
    stretched_N2 = side_N2 * np.exp(generator.normal(0.0, 0.15, side_N2.shape))
    other_N = generator.integers(1, cases.categories + 1, cases.boxes)
    said_N = np.where(generator.random(cases.boxes) < 0.9, category_N, other_N)
    score_N = generator.random(cases.boxes)
    score_N = {"many": score_N, "few": score_N.round(1), "one": np.ones(cases.boxes)}[cases.scores]
    return [
        {
            "image_id": number,
            "category_id": int(category),
            "bbox": [*corner.tolist(), *side.tolist()],
            "score": float(score),
        }
        for corner, side, category, score in zip(moved_N2, stretched_N2, said_N, score_N, strict=True)
    ]
