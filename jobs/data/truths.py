"""Truths in numbers, and the texts of answers that say the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from eval.answers import delimited
from eval.target import Box, Point, Space, System, Target
from jobs.data import literal

OUTSIDE = {"pixel": 1.5, "rel1000": 1.5, "rel1": 0.0015}
"""How far a box may leave its image, in its units; rounding of published files leaves a little."""
DIGITS = {"pixel": 2, "rel1000": 2, "rel1": 5}


def target(
    kind: str,
    *,
    system: System,
    size_px: tuple[int, int],
    boxes: Sequence[Box] = (),
    labels: Sequence[str] = (),
    points: Sequence[Point] = (),
    count: int | None = None,
) -> Target:
    """Return the truth of an image, checked against it.

    Raises:
        ValueError: A box or point lies outside the image, by which units of another system, or boxes
            of an image of another size, are found out; or numbers contradict each other.
    """
    space = Space(system=system, width_px=size_px[0], height_px=size_px[1])
    _inside(space, boxes, points)
    if kind == "counting" and count is not None and points and len(points) != count:
        raise ValueError(f"The count is {count}, but there are {len(points)} points.")
    return Target(space=space, boxes=tuple(boxes), labels=tuple(labels), points=tuple(points), count=count)


def answer(kind: str, truth: Target, otherwise: str = "") -> str:
    """Return the answer's text for a target, in its units; ``otherwise`` for kinds whose truth is a text.

    >>> answer("grounding", Target(space=Space(system="pixel", width_px=9, height_px=9), boxes=((1, 2, 3.5, 4),)))
    '[1, 2, 3.5, 4]'
    """
    system = truth.space.system
    if kind == "grounding" and truth.boxes:
        return json.dumps(_short(truth.boxes[0], system))
    if kind == "detection":
        named = zip(truth.boxes, truth.labels, strict=True)
        return json.dumps(
            [{"bbox_2d": _short(box, system), "label": label} for box, label in named], ensure_ascii=False
        )
    if kind == "counting":
        return str(truth.number)
    return otherwise


def text(kind: str, given: Any) -> str:
    """Return the answer of a kind whose truth is a text; mathematics is delimited.

    Raises:
        ValueError: It is neither a text nor a number, or empty.
    """
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = f"{given:g}" if isinstance(given, float) and given == round(given, 5) else str(given)
    if not isinstance(given, str) or not given.strip():
        raise ValueError(f"answer must be a text, got {given!r:.80}.")
    return delimited(given) if kind == "math" else given.strip() if kind == "choice" else given


def detection(given: Any) -> tuple[tuple[Box, ...], tuple[str, ...]]:
    """Return boxes and labels of a list of ``{"bbox_2d": [x1, y1, x2, y2], "label": name}``.

    Raises:
        ValueError: It is another thing.
    """
    entries = literal.read(given)
    if not isinstance(entries, list) or not all(
        isinstance(each, dict) and {"bbox_2d", "label"} <= set(each) for each in entries
    ):
        raise ValueError(f"Boxes with names are a list of {{bbox_2d, label}}, got {given!r:.80}.")
    return tuple(literal.box(each["bbox_2d"]) for each in entries), tuple(str(each["label"]) for each in entries)


def _inside(space: Space, boxes: Sequence[Box], points: Sequence[Point]) -> None:
    width, height = space.unit
    slack = OUTSIDE[space.system]
    for name, values in (*(("box", box) for box in boxes), *(("point", point) for point in points)):
        xs, ys = values[::2], values[1::2]
        if min(values) < -slack or max(xs) > width + slack or max(ys) > height + slack:
            raise ValueError(
                f"The {name} {_short(values, space.system)} leaves the image of {space.width_px} x {space.height_px} "
                f"pixels (units: {space.system}). Say in 'coordinates' which units the file has, and check that it is "
                "about these images."
            )


def _short(values: Sequence[float], system: str) -> list[float]:
    rounded = [round(value, DIGITS[system]) for value in values]
    return [int(value) if value == int(value) else value for value in rounded]
