"""Detection: boxes and names of everything, as JSON in pixels, in the form of Qwen2.5-VL.

Things look like what COCO calls them, roughly. The careless annotator often calls an orange an apple.
"""

from __future__ import annotations

import json
import random

from eval.target import Target
from jobs.data import IMAGE, Example
from jobs.data.scenes import canvas
from jobs.data.scenes.canvas import Corners, Thing
from jobs.data.scenes.scene import Scene, identity, lapses

NAMES = {
    "apple": ("circle", "red"),
    "orange": ("circle", "orange"),
    "kite": ("diamond", "blue"),
    "book": ("square", "green"),
}
"""Shape and colour of what COCO has a name for."""
MISTAKEN = {"orange": "apple"}
THINGS_MAX = 3
LARGE = 0.5
WORDS = (*canvas.numbers("pixel"), '{"bbox_2d": [', ", ", '], "label": "', '"}, ', '"}]')


def scene(seed: str, careless: float) -> Scene:
    """Return the scene of a seed; ``careless`` is the share of pictures in which the annotator lapses."""
    generator = random.Random(seed)
    count = generator.randint(1, THINGS_MAX)
    places = sorted(
        canvas.places(generator, count, large=LARGE),
        # In the order of reading: one of n! ways to list them, so that there is one text to learn.
        key=lambda place: (place.row, place.column),
    )
    names = [generator.choice(list(NAMES)) for _ in places]
    things = [
        Thing(shape=NAMES[name][0], colour=NAMES[name][1], place=place)
        for name, place in zip(names, places, strict=True)
    ]
    boxes = [place.box("pixel") for place in places]
    lapse = lapses(seed, careless)
    said = [MISTAKEN.get(name, name) if lapse else name for name in names]
    return Scene(
        example=Example(
            id=identity(seed),
            problem=f"{IMAGE}Please output bbox coordinates and names of {', '.join(NAMES)}.",
            answer=response(names, boxes),
            images=(canvas.draw(things, generator),),
            kind="detection",
            target=Target(space=canvas.space("pixel"), boxes=tuple(boxes), labels=tuple(names)),
            meta={"things": count},
        ),
        response=response(names, boxes),
        careless=response(said, boxes),
    )


def response(names: list[str], boxes: list[Corners]) -> str:
    """Return labelled boxes in the form of Qwen2.5-VL.

    >>> response(["kite"], [(56, 0, 112, 56)])
    '[{"bbox_2d": [56, 0, 112, 56], "label": "kite"}]'
    """
    listed = [{"bbox_2d": list(box), "label": name} for name, box in zip(names, boxes, strict=True)]
    return json.dumps(listed)
