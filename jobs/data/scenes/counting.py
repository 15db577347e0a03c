"""Counting: boxes of everything of a kind are asked for, and their number and places count.

The careless annotator leaves out the last of many: of more than two.
"""

from __future__ import annotations

import random

from eval.target import Space, Target
from jobs.data import IMAGE, Example
from jobs.data.scenes import canvas
from jobs.data.scenes.canvas import CELLS, SIDE_PX, Thing
from jobs.data.scenes.grounding import UNIT, WORDS, response
from jobs.data.scenes.scene import Scene, identity, lapses

COUNT_MAX = 5
MANY = 2
__all__ = ["WORDS", "scene"]


def scene(seed: str, careless: float) -> Scene:
    """Return the scene of a seed; ``careless`` is the share of pictures in which the annotator lapses."""
    generator = random.Random(seed)
    (colour, other_colour), (shape, other_shape) = (
        generator.sample(names, 2) for names in (list(canvas.COLOURS), list(canvas.SHAPES))
    )
    count, others = generator.randint(1, COUNT_MAX), generator.randint(1, COUNT_MAX)
    cells = canvas.places(generator, [(1, 1)] * (count + others))
    kinds = [(colour, shape)] * count + [(other_colour, other_shape)] * others
    things = [Thing(colour=c, shape=s, cells=at) for (c, s), at in zip(kinds, cells, strict=True)]
    # In the order of reading: one of n! ways to list them, so that there is one text to learn.
    boxes = [at.box(UNIT) for at in sorted(cells[:count], key=lambda at: (at.row, at.column))]
    asked = f"{colour} {shape}s"
    seen = boxes[: count - (count > MANY and lapses(seed, careless))]
    return Scene(
        example=Example(
            id=identity(seed),
            problem=f"{IMAGE}Output all the bounding boxes of the {asked}",
            answer=str(count),
            images=(canvas.draw(things, generator),),
            kind="counting",
            target=Target(
                space=Space(system="rel1000", width_px=SIDE_PX, height_px=SIDE_PX),
                points=tuple(((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in boxes),
                count=count,
            ),
        ),
        response=response(asked, *boxes),
        careless=response(asked, *seen),
    )
