"""The ground that scenes are drawn on, and things to lie on it: shapes that fill whole cells of a grid.

A picture has 4 x 4 cells of 28 pixels, each of which is one token of Qwen2-VL's vision tower. The ground
grows lighter to the right and greener downwards: the tower's own positions are relative, and a small model that
is to say where a thing lies learns it sooner from a ground that differs everywhere.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from PIL import Image, ImageDraw

from eval.target import Box

CELL_PX = 28
CELLS = 4
SIDE_PX = CELLS * CELL_PX
COLOURS = {"red": (235, 30, 30), "green": (20, 190, 30), "blue": (30, 30, 245), "yellow": (245, 225, 30)}
SHAPES = ("circle", "square", "triangle", "diamond")
JITTER_PX = 1


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A rectangle of cells, counted from the picture's upper left corner."""

    column: int
    row: int
    columns: int = 1
    rows: int = 1

    def box(self, unit: int) -> tuple[int, int, int, int]:
        """Return the corners, in a system of coordinates in which one cell has this width and height."""
        left, top = self.column * unit, self.row * unit
        return left, top, left + self.columns * unit, top + self.rows * unit

    @property
    def all(self) -> set[tuple[int, int]]:
        """Every cell of it, as (column, row)."""
        return set(product(range(self.column, self.column + self.columns), range(self.row, self.row + self.rows)))


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A shape of one colour that fills its cells."""

    shape: str
    colour: str
    cells: Cells


def places(generator: random.Random, sizes: Sequence[tuple[int, int]]) -> list[Cells]:
    """Return disjoint places for things of these sizes, given in columns and rows, all ways of lying equally likely.

    Raises:
        ValueError: Hundred attempts found no room.
    """
    for _ in range(100):
        taken: set[tuple[int, int]] = set()
        found = []
        for columns, rows in sizes:
            place = Cells(
                column=generator.randint(0, CELLS - columns),
                row=generator.randint(0, CELLS - rows),
                columns=columns,
                rows=rows,
            )
            if place.all & taken:
                break
            taken |= place.all
            found.append(place)
        if len(found) == len(sizes):
            return found
    raise ValueError(f"{len(sizes)} things of {sum(c * r for c, r in sizes)} cells do not fit {CELLS * CELLS} cells.")


def draw(things: Sequence[Thing], generator: random.Random) -> bytes:
    """Return the things on the ground as a PNG of 112 x 112 pixels."""
    image = _ground()
    pen = ImageDraw.Draw(image)
    for thing in things:
        left, top, right, bottom = thing.cells.box(CELL_PX)
        dx, dy = (generator.randint(0, JITTER_PX) for _ in range(2))
        _shape(pen, thing.shape, COLOURS[thing.colour], (left + dx, top + dy, right - 1 - dx, bottom - 1 - dy))
    return png(image)


def png(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _ground() -> Image.Image:
    image = Image.new("RGB", (CELLS, CELLS))
    image.putdata([(90 + 30 * column, 70 + 30 * row, 110) for row in range(CELLS) for column in range(CELLS)])
    return image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)


def _shape(pen: ImageDraw.ImageDraw, shape: str, colour: tuple[int, int, int], box: Box) -> None:
    left, top, right, bottom = box
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    elif shape == "triangle":
        pen.polygon([(middle_x, top), (right, bottom), (left, bottom)], fill=colour)
    else:
        pen.polygon([(middle_x, top), (right, middle_y), (middle_x, bottom), (left, middle_y)], fill=colour)
