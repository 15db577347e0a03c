"""Detection, as on COCO: all boxes with their names, written as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from eval import box_text, coco, coco_map, detection
from eval.box_text import Labelled
from eval.target import Box, Target
from eval.tasks import drawn
from eval.tasks.kind import Measured, Options, Problem, Row

ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
TIE_ORDER = "image id, then the order in which the model wrote the boxes"


class Detection:
    """COCO's twelve numbers over all images; of each image, how many boxes were found."""

    def __init__(self, options: Options) -> None:
        self._options = options

    async def measure(self, problem: Problem, response: str) -> Measured:
        """Return what one image's list holds. There is no right and wrong.

        An entry that cannot be read costs itself; as published (``faithful``) it costs all that
        follow it. Names are compared without regard to case, and as they are when ``faithful``.
        """
        truth = drawn.target_of(problem)
        found = published(response) if self._options.faithful else box_text.labelled(response)
        labels = [label if self._options.faithful else label.strip().casefold() for label, _ in found.items]
        rules = detection.Rules(classes=classes_of(problem, truth), faithful=self._options.faithful)
        score = detection.score(response, truth, self._options.coordinates, rules)
        shares = {name: value for name, value in score.parts().items() if name != "reward"}
        return Measured(
            parts={**shares, "boxes": float(len(labels)), "malformed": float(found.malformed)},
            correct=None,
            extracted=json.dumps([{"bbox_2d": box, "label": label} for label, box in found.items]),
            prediction=drawn.prediction(
                truth, self._options.coordinates, boxes=[box for _, box in found.items], labels=labels
            ),
        )

    def aggregate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the twelve numbers, with how many images and boxes they are made of and how ties were ranked."""
        categories = categories_of(rows)
        results = coco_results(rows, categories)
        written = sum(len(row["prediction"]["boxes"]) for row in rows)
        return {
            "detection": {
                **coco_map.stats(coco_truth(rows, categories), results),
                "images": len(rows),
                "boxes": len(results),
                "unknown_labels": written - len(results),
                "malformed": int(sum(row["parts"]["malformed"] for row in rows)),
                "score_of_every_box": coco_map.SCORE,
                "tie_order": TIE_ORDER,
            }
        }

    async def close(self) -> None:
        """Nothing to let go of."""


def published(response: str) -> Labelled:
    """Return what PR1's evaluation reads: it stops at the first entry that it cannot read, and keeps what came before.

    Source:
        PR1, eval/evaluate_detection.py:108-129 at 48d5558.
    """
    match = ANSWER.search(response)
    text = (match.group(1) if match else response).replace("```json", "").replace("```", "").strip()
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return Labelled(malformed=1)
    items: list[tuple[str, Box]] = []
    for entry in entries if isinstance(entries, list) else [None]:
        found = box_text.labelled(json.dumps([entry]))
        if not found.items:
            return Labelled(items=tuple(items), malformed=1)
        items += found.items
    return Labelled(items=tuple(items), whole=True)


def classes_of(problem: Problem, truth: Target) -> tuple[str, ...]:
    """Return the names that may be said: those of ``meta["classes"]``, else COCO's, else the truth's."""
    given = tuple(map(str, problem.meta.get("classes") or ()))
    return given or (coco.NAMES if set(truth.labels) <= coco.IDS.keys() else tuple(dict.fromkeys(truth.labels)))


def categories_of(rows: Sequence[Row]) -> dict[str, int]:
    """Return names and identifiers: COCO's if every name is COCO's, else the names in order from 1.

    The names are those of ``meta["classes"]`` and of all that is to be seen, crowds too.
    """
    names = {str(name) for row in rows for name in (row.get("meta") or {}).get("classes") or ()}
    names |= {str(label) for row in rows for label in row["target"]["labels"]}
    names |= {str(each["label"]) for row in rows for each in _coco(row).get("crowd") or ()}
    if names <= coco.IDS.keys():
        return coco.IDS
    return {name: number for number, name in enumerate(sorted(names), 1)}


def image_ids(rows: Sequence[Row]) -> dict[str, int]:
    """Return a number for every row: the source's, or, if one row has none, the place among the sorted ids."""
    given = {str(row["id"]): _coco(row).get("image_id") for row in rows}
    if all(isinstance(number, int) for number in given.values()):
        return {name: int(number) for name, number in given.items() if number is not None}
    return {name: number for number, name in enumerate(sorted(given), 1)}


def coco_truth(rows: Sequence[Row], categories: Mapping[str, int]) -> dict[str, Any]:
    """Return the ground truth of the rows in COCO's format, boxes in pixels of the images as they were shown.

    Areas, which decide what is small, and crowds, which COCO ignores, are the source's where
    ``meta["coco"]`` has ``areas`` and ``crowd``; without, the area is the box's, which is larger than
    the object's.
    """
    ids = image_ids(rows)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row in rows:
        truth, about = Target.from_json(row["target"]), _coco(row)
        size = {"width": truth.space.width_px, "height": truth.space.height_px}
        images.append({"id": ids[str(row["id"])], **size})
        boxes = _xywh(truth)
        things = [*zip(truth.labels, boxes, about.get("areas") or [w * h for _, _, w, h in boxes], strict=True)]
        crowd = [(each["label"], _sides(each["box"]), each["area"]) for each in about.get("crowd") or ()]
        annotations += [
            {
                "image_id": ids[str(row["id"])],
                "category_id": categories[label],
                "bbox": box,
                "area": float(area),
                "iscrowd": int(place >= len(things)),
            }
            for place, (label, box, area) in enumerate([*things, *crowd])
        ]
    annotations = [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)]
    listed = [{"id": number, "name": name} for name, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": listed}


def coco_results(rows: Sequence[Row], categories: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return what was found in COCO's results format, by image id and in the order of writing.

    Names that are no category are left out; ``aggregate`` counts them.
    """
    ids = image_ids(rows)
    results = [
        {
            "image_id": ids[str(row["id"])],
            "category_id": categories[label],
            "bbox": box,
            "score": coco_map.SCORE,
        }
        for row in rows
        for found in [Target.from_json(row["prediction"])]
        for label, box in zip(found.labels, _xywh(found), strict=True)
        if label in categories
    ]
    return coco_map.ordered(results)


def _xywh(target: Target) -> list[list[float]]:
    return [_sides(box) for box in target.boxes_in("pixel").tolist()]


def _sides(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _coco(row: Row) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (row.get("meta") or {}).get("coco") or {}
    return found
