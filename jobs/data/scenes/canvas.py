"""The map that scenes are drawn on: 2 x 2 fields, in each of which one thing may lie, small or large.

Vision towers of the Qwen2-VL family know no absolute positions, so the map shows them: every field has a ground
of its own, and a line crosses the picture every 16 pixels, white ones down and black ones across, which fall at
another place within every patch of 14 pixels, as on a vernier. A small model learns in minutes from this what it
would not learn from a plain ground.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from PIL import Image, ImageDraw

from eval.target import Space, System

SIDE_PX = 112
FIELDS = 2
FIELD_PX = SIDE_PX // FIELDS
INSET_PX = 14
LINES_PX = 16
GROUNDS = (((100, 85, 60), (215, 200, 175)), ((60, 85, 100), (175, 200, 215)))
"""By row and column: the upper fields are warm, the right ones light."""
COLOURS = {"red": (235, 30, 30), "green": (20, 190, 30), "blue": (30, 30, 245)}
"""What questions name."""
PALETTE = COLOURS | {"orange": (250, 165, 20)}
"""What things are painted with."""
SHAPES = ("circle", "square", "triangle", "diamond")
UNITS: dict[System, int] = {"pixel": SIDE_PX, "rel1000": 1000}
"""Length of the picture's side."""

SHADE = 12
"""How far the parts of a colour vary, of 255."""

Corners = tuple[int, int, int, int]
Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a thing lies: in a column and row of fields, filling its field or a quarter of it."""

    column: int
    row: int
    large: bool = False

    def box(self, system: System) -> Corners:
        """Return the corners in a system of coordinates, exactly."""
        field = UNITS[system] // FIELDS
        inset = 0 if self.large else UNITS[system] * INSET_PX // SIDE_PX
        left, top = self.column * field, self.row * field
        return left + inset, top + inset, left + field - inset, top + field - inset


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A shape of one colour at a place."""

    shape: str
    colour: str
    place: Place

    @property
    def name(self) -> str:
        """What it is called in a question."""
        return f"{self.colour} {self.shape}"


def numbers(system: System) -> tuple[str, ...]:
    """Return every coordinate that a box can have, as a text."""
    every = {
        coordinate
        for field in range(FIELDS)
        for large in (False, True)
        for coordinate in Place(column=field, row=field, large=large).box(system)
    }
    return tuple(map(str, sorted(every)))


def space(system: System) -> Space:
    """Return the coordinates of a picture."""
    return Space(system=system, width_px=SIDE_PX, height_px=SIDE_PX)


def places(generator: random.Random, count: int, *, large: float = 0.0) -> list[Place]:
    """Return places in different fields, each large with this probability."""
    fields = generator.sample(range(FIELDS * FIELDS), count)
    return [Place(column=f % FIELDS, row=f // FIELDS, large=generator.random() < large) for f in fields]


def draw(things: Sequence[Thing], generator: random.Random) -> bytes:
    """Return the map with the things as a PNG of 112 x 112 pixels.

    Args:
        things: In different fields.
        generator: Of the shades: no two pictures are the same, even of the same things at the same places.
    """
    image = Image.new("RGB", (SIDE_PX, SIDE_PX))
    pen = ImageDraw.Draw(image)
    for row, column in product(range(FIELDS), range(FIELDS)):
        corner = (column * FIELD_PX, row * FIELD_PX)
        ground = shade(GROUNDS[row][column], generator)
        pen.rectangle((*corner, corner[0] + FIELD_PX - 1, corner[1] + FIELD_PX - 1), fill=ground)
    for thing in things:
        left, top, right, bottom = thing.place.box("pixel")
        # Pillow's right and lower edges are inside the shape.
        _shape(pen, thing.shape, shade(PALETTE[thing.colour], generator), (left, top, right - 1, bottom - 1))
    rule(pen)
    return png(image)


def shade(colour: Colour, generator: random.Random) -> Colour:
    """Return a colour that differs from this one by little."""
    red, green, blue = (min(255, max(0, part + generator.randint(-SHADE, SHADE))) for part in colour)
    return red, green, blue


def rule(pen: ImageDraw.ImageDraw) -> None:
    """Draw the lines of the map."""
    for at in range(0, SIDE_PX, LINES_PX):
        pen.line((at, 0, at, SIDE_PX), fill="white", width=2)
        pen.line((0, at, SIDE_PX, at), fill="black", width=2)


def png(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _shape(pen: ImageDraw.ImageDraw, shape: str, colour: Colour, box: Corners) -> None:
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
