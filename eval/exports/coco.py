"""COCO: ``<task>_results.json`` of a detection task, and ``<task>_truth.json`` to hold it against.

Both are made as the evaluation makes them for its own mAP, so pycocotools finds the same twelve numbers in them.
Boxes are ``[x, y, width, height]`` in pixels of the images as they were shown to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.exports.evaluated import Evaluated, Task, document
from eval.record import Row
from eval.tasks import detection
from orchestrator.errors import InputError

KIND = "detection"


def write(found: Evaluated, out: Path) -> list[Path]:
    """Write two files for every detection task of a model and return them.

    Raises:
        InputError: No task is a detection, or one was answered several times: COCO has one set of boxes an image.
    """
    tasks = [task for task in found.tasks if all(row.get("kind") == KIND for row in task.rows)]
    if not tasks:
        kinds = sorted({str(row.get("kind")) for task in found.tasks for row in task.rows})
        raise InputError(f"coco: {found.run}:{found.label} has no detection task; its kinds are {', '.join(kinds)}.")
    several = [task.name for task in tasks if task.side.repeated]
    if several:
        raise InputError(f"coco: {', '.join(several)} has several answers a problem. Evaluate it with one sample.")
    return [path for task in tasks for path in _files(task, task.rows, out)]


def _files(task: Task, rows: Sequence[Row], out: Path) -> list[Path]:
    categories = detection.categories_of(rows)
    return [
        document(out / f"{task.name}_results.json", detection.coco_results(rows, categories)),
        document(out / f"{task.name}_truth.json", detection.coco_truth(rows, categories)),
    ]
