"""What a response found, in the form of a target and in pixels, so that a report draws both alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.target import Space, System, Target
from eval.tasks.kind import Problem, Row


def target_of(problem: Problem) -> Target:
    """Return the truth in numbers.

    Raises:
        ValueError: The problem has none: the data's reader is at fault, not the model.
    """
    if problem.target is None:
        raise ValueError(f"problem {problem.id!r}: A problem of kind {problem.kind!r} needs a target, and has none.")
    return problem.target


def prediction(
    truth: Target,
    system: System,
    *,
    boxes: Sequence[Sequence[float]] = (),
    labels: Sequence[str] = (),
    points: Sequence[Sequence[float]] = (),
    count: int | None = None,
) -> dict[str, Any]:
    """Return boxes and points that were written in the units of ``system`` as a target's JSON, in pixels."""
    written = Space(system=system, width_px=truth.space.width_px, height_px=truth.space.height_px)
    pixels = Space(system="pixel", width_px=truth.space.width_px, height_px=truth.space.height_px)
    boxes_N4 = written.to("pixel", np.array(boxes, dtype=np.float64).reshape(-1, 4))
    points_N2 = written.to("pixel", np.array(points, dtype=np.float64).reshape(-1, 2))
    found = Target(
        space=pixels,
        boxes=tuple(map(tuple, boxes_N4.tolist())),
        labels=tuple(labels),
        points=tuple(map(tuple, points_N2.tolist())),
        count=count,
    )
    return found.to_json()


def of_split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return rows by data set, split and language, such as ``refcoco_val``, sorted; ``all`` where ``meta`` has none."""
    splits: dict[str, list[Row]] = {}
    for row in rows:
        meta: Mapping[str, Any] = row.get("meta") or {}
        named = [str(meta[name]) for name in ("dataset", "split", "language") if meta.get(name)]
        splits.setdefault("_".join(named) or "all", []).append(row)
    return {name: splits[name] for name in sorted(splits)}
