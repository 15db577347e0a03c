"""What is drawn over an image: true boxes and points, and those that a response states.

Everything is in shares of the image's sides, so that a picture may be shown in any size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval import box_text
from eval.box_text import Writes
from eval.record import Row
from eval.target import SYSTEMS, Space, System, Target

DIGITS = 4
DRAWN_MAX = 300
"""More shapes than that on one image hide it; a model that repeats itself writes thousands."""
FARTHEST = 2.0
"""Sides of the image beyond which a coordinate is cut: what lies there cannot be seen anyway."""
Shapes = dict[str, Any]
"""``boxes`` as corners, ``labels`` of them, ``points``; what there is none of is left out."""


def truth(target: Target) -> Shapes:
    """Return the true boxes, or the points where no box is known."""
    if target.boxes:
        return _boxes(target.boxes, target.space, target.labels)
    return _points(target.points, target.space)


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a model writes what it sees.

    Attributes:
        coordinates: The units.
        writes: What two pairs in a row are: the corners of a box, or two points.
    """

    coordinates: System
    writes: Writes = "boxes"


DEFAULTS: Mapping[str, Writing] = {
    "grounding": Writing(coordinates="rel1000"),
    "counting": Writing(coordinates="rel1000"),
    "detection": Writing(coordinates="pixel"),
}
"""Of the rewards of these names, as ``jobs.rewards.settings`` has them: a plan leaves defaults out."""


def writing(plan: Row) -> dict[str, Writing]:
    """Return how the trained model writes, by the kind of task, for kinds whose reward the plan names."""
    found: dict[str, Writing] = {}
    for role in plan.get("roles", ()):
        rewards = (role.get("settings") or {}).get("rewards")
        if role.get("job") == "grpo" and isinstance(rewards, Mapping):
            found |= {kind: _writing(default, rewards[kind]) for kind, default in DEFAULTS.items() if rewards.get(kind)}
    return found


def stated(response: str, target: Target, kind: str, how: Writing) -> Shapes:
    """Return what a response states, as its metric reads it.

    Args:
        response: The decoded response.
        target: The truth, which tells the image's size.
        kind: Of the task: ``detection`` has names beside boxes, ``counting`` may state points.
        how: The units that the model writes, and whether they are boxes.
    """
    space = Space(system=how.coordinates, width_px=target.space.width_px, height_px=target.space.height_px)
    if kind == "detection":
        items = box_text.labelled(response).items
        return _boxes([box for _, box in items], space, [label for label, _ in items])
    boxes = [] if kind == "counting" and how.writes == "points" else box_text.boxes(response)
    if boxes:
        return _boxes(boxes, space)
    return _points(box_text.points(response, how.writes), space) if kind == "counting" else {}


def _writing(default: Writing, given: Any) -> Writing:
    """Return what a reward's settings say; a bare number is its weight."""
    said = given if isinstance(given, Mapping) else {}
    coordinates, writes = said.get("coordinates"), said.get("writes")
    return Writing(
        coordinates=coordinates if coordinates in SYSTEMS else default.coordinates,
        writes="points" if writes == "points" else default.writes,
    )


def _boxes(boxes: Sequence[Sequence[float]], space: Space, labels: Sequence[str] = ()) -> Shapes:
    found: Shapes = {"boxes": _shares(boxes, space)} if boxes else {}
    return found | {"labels": list(labels[:DRAWN_MAX])} if boxes and labels else found


def _points(points: Sequence[Sequence[float]], space: Space) -> Shapes:
    return {"points": _shares(points, space)} if points else {}


def _shares(given: Sequence[Sequence[float]], space: Space) -> list[list[float]]:
    wide, high = space.unit
    return [[_share(value, high if k % 2 else wide) for k, value in enumerate(one)] for one in given[:DRAWN_MAX]]


def _share(value: float, unit: float) -> float:
    share = value / unit
    return round(min(FARTHEST, max(-FARTHEST, share)), DIGITS) if math.isfinite(share) else 0.0
