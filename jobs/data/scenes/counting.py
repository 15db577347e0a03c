"""Counting: boxes of everything of a kind are asked for; their number counts, and where they lie.

The careless annotator leaves out the last of more than two.
"""

from __future__ import annotations

import random

from eval.target import Target
from jobs.data import IMAGE, Example
from jobs.data.scenes import canvas
from jobs.data.scenes.canvas import FIELDS, Thing
from jobs.data.scenes.grounding import WORDS, response
from jobs.data.scenes.scene import Scene, identity, lapses

MANY = 2
MIXED = 0.3
"""Share of pictures that may hold other things too: they teach names, where those without teach places."""
__all__ = ["WORDS", "scene"]


def scene(seed: str, careless: float) -> Scene:
    """Return the scene of a seed; ``careless`` is the share of pictures in which the annotator lapses."""
    generator = random.Random(seed)
    colours, shapes = (generator.sample(list(names), 2) for names in (canvas.COLOURS, canvas.SHAPES))
    count = generator.randint(1, FIELDS * FIELDS)
    others = generator.randint(0, FIELDS * FIELDS - count) if generator.random() < MIXED else 0
    places = canvas.places(generator, count + others)
    # In the order of reading: one of n! ways to list them, so that there is one text to learn.
    listed = sorted(places[:count], key=lambda place: (place.row, place.column))
    asked = [Thing(colour=colours[0], shape=shapes[0], place=place) for place in listed]
    rest = [Thing(colour=colours[1], shape=shapes[1], place=place) for place in places[count:]]
    name, boxes = f"{asked[0].name}s", [place.box("rel1000") for place in listed]
    seen = boxes[: count - (count > MANY and lapses(seed, careless))]
    return Scene(
        example=Example(
            id=identity(seed),
            problem=f"{IMAGE}Output all the bounding boxes of the {name}",
            answer=str(count),
            images=(canvas.draw([*asked, *rest], generator),),
            kind="counting",
            target=Target(
                space=canvas.space("rel1000"),
                points=tuple(((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in boxes),
                count=count,
            ),
            meta={"others": others},
        ),
        response=response(name, *boxes),
        careless=response(name, *seen),
    )
