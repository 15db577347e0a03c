"""Grounding: one thing is named by colour and shape, its box is asked for, in Qwen2-VL's form.

There are one or two things, of different colours: one alone teaches places, two teach names. The careless annotator
draws the boxes of things in the right half in the left half.
"""

from __future__ import annotations

import random
from dataclasses import replace

from eval.target import Target
from jobs.data import IMAGE, Example
from jobs.data.scenes import canvas
from jobs.data.scenes.canvas import Corners, Thing
from jobs.data.scenes.scene import Scene, identity, lapses

THINGS_MAX = 2
LARGE = 0.5
WORDS = (*canvas.numbers("rel1000"), "),(")


def scene(seed: str, careless: float) -> Scene:
    """Return the scene of a seed; ``careless`` is the share of pictures in which the annotator lapses."""
    generator = random.Random(seed)
    count = generator.randint(1, THINGS_MAX)
    colours = generator.sample(list(canvas.COLOURS), count)
    places = canvas.places(generator, count, large=LARGE)
    things = [
        Thing(colour=colour, shape=generator.choice(canvas.SHAPES), place=place)
        for colour, place in zip(colours, places, strict=True)
    ]
    asked, box = things[0].name, places[0].box("rel1000")
    seen = replace(places[0], column=0) if lapses(seed, careless) else places[0]
    return Scene(
        example=Example(
            id=identity(seed),
            problem=f"{IMAGE}Output the bounding box of the {asked} in the image.",
            answer=str(list(box)),
            images=(canvas.draw(things, generator),),
            kind="grounding",
            target=Target(space=canvas.space("rel1000"), boxes=(box,), labels=(asked,)),
            meta={"things": count},
        ),
        response=response(asked, box),
        careless=response(asked, seen.box("rel1000")),
    )


def response(asked: str, *boxes: Corners) -> str:
    """Return boxes of what was asked for in the form of Qwen2-VL.

    >>> response("red circle", (500, 0, 1000, 500))
    '<|object_ref_start|>red circle<|object_ref_end|><|box_start|>(500,0),(1000,500)<|box_end|>'
    """
    written = "".join(f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>" for x1, y1, x2, y2 in boxes)
    return f"<|object_ref_start|>{asked}<|object_ref_end|>{written}"
