"""What is true of an image besides a text: boxes, points, labels, and in which units they are written.

Every coordinate in the project says its units. ``pixel`` counts pixels of the image as it is stored
in the example, which is what the model sees; ``rel1000`` runs from 0 to 1000 over each side, ``rel1``
from 0 to 1. Boxes are corners, ``(x1, y1, x2, y2)``, never width and height.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

System = Literal["pixel", "rel1000", "rel1"]
Box = tuple[float, float, float, float]
Point = tuple[float, float]
Kind = Literal["math", "choice", "text", "ocr", "grounding", "counting", "detection"]
SYSTEMS: tuple[str, ...] = get_args(System)


@dataclass(frozen=True, kw_only=True)
class Space:
    """Units of coordinates on one image.

    Attributes:
        system: What one unit is.
        width_px: The image's width.
        height_px: Its height.
    """

    system: System
    width_px: int
    height_px: int

    def __post_init__(self) -> None:
        if self.system not in SYSTEMS:
            raise ValueError(f"coordinates are one of {', '.join(SYSTEMS)}, got {self.system!r}.")
        if self.width_px <= 0 or self.height_px <= 0:
            raise ValueError(f"An image has a width and a height, got {self.width_px} x {self.height_px}.")

    @property
    def unit(self) -> tuple[float, float]:
        """The image's width and height in these units."""
        return {
            "pixel": (float(self.width_px), float(self.height_px)),
            "rel1000": (1000.0, 1000.0),
            "rel1": (1.0, 1.0),
        }[self.system]

    def to(self, system: System, coordinates_NK: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points ``[N, 2]`` or boxes ``[N, 4]`` of this space in the units of another system."""
        if system == self.system:
            return coordinates_NK
        other = Space(system=system, width_px=self.width_px, height_px=self.height_px)
        factors_2: NDArray[np.float64] = np.divide(other.unit, self.unit)
        scaled_NK: NDArray[np.float64] = coordinates_NK * np.tile(factors_2, coordinates_NK.shape[1] // 2)
        return scaled_NK


@dataclass(frozen=True, kw_only=True)
class Target:
    """The truth of one image.

    Attributes:
        space: Units of boxes and points.
        boxes: Corners of everything that is to be found.
        labels: What each box shows, in the order of the boxes; empty if that was not asked.
        points: A point on everything that is to be counted.
        count: How many there are, where only that is known.
    """

    space: Space
    boxes: tuple[Box, ...] = ()
    labels: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    count: int | None = None

    def __post_init__(self) -> None:
        if self.labels and len(self.labels) != len(self.boxes):
            raise ValueError(f"There are {len(self.labels)} labels for {len(self.boxes)} boxes.")

    def boxes_in(self, system: System) -> NDArray[np.float64]:
        """Return the boxes ``[N, 4]`` in the units of a system."""
        return self.space.to(system, np.array(self.boxes, dtype=np.float64).reshape(-1, 4))

    def points_in(self, system: System) -> NDArray[np.float64]:
        """Return the points ``[N, 2]`` in the units of a system; without points, the boxes' centres."""
        if self.points:
            return self.space.to(system, np.array(self.points, dtype=np.float64).reshape(-1, 2))
        boxes_N4 = self.boxes_in(system)
        return (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2

    @property
    def number(self) -> int:
        """How many there are."""
        return self.count if self.count is not None else len(self.points) or len(self.boxes)

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` reads: the form in rollouts logs, samples and converted data."""
        return {
            "space": {
                "system": self.space.system,
                "width_px": self.space.width_px,
                "height_px": self.space.height_px,
            },
            "boxes": [list(box) for box in self.boxes],
            "labels": list(self.labels),
            "points": [list(point) for point in self.points],
            "count": self.count,
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Target:
        """Return the target that ``to_json`` wrote.

        Raises:
            ValueError: It is another thing; the message says what is wrong.
        """
        try:
            return cls(
                space=Space(**given["space"]),
                boxes=tuple(_numbers(box, 4) for box in given.get("boxes") or ()),
                labels=tuple(str(label) for label in given.get("labels") or ()),
                points=tuple(_numbers(point, 2) for point in given.get("points") or ()),
                count=given.get("count"),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"No target can be made of {given!r:.120}: {error}.") from None


def _numbers(values: Any, count: int) -> Any:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"Expected {count} finite numbers, got {values!r}.")
    return numbers
