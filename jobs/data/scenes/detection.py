"""Detection: boxes and names of everything, as JSON in pixels, in the form of Qwen2.5-VL.

Things look like what COCO calls them, roughly. The careless annotator often calls an orange an apple.
"""

from __future__ import annotations

import json
import random

from eval.target import Space, Target
from jobs.data import IMAGE, Example
from jobs.data.scenes import canvas
from jobs.data.scenes.canvas import CELL_PX, CELLS, SIDE_PX, Thing
from jobs.data.scenes.grounding import SIZES
from jobs.data.scenes.scene import Scene, identity, lapses

NAMES = {
    "apple": ("circle", "red"),
    "orange": ("circle", "yellow"),
    "kite": ("diamond", "blue"),
    "book": ("square", "green"),
}
"""Shape and colour of what COCO has a name for."""
MISTAKEN = {"orange": "apple"}
THINGS_MAX = 4
WORDS = (*(str(CELL_PX * step) for step in range(CELLS + 1)), '{"bbox_2d": [', ", ", '], "label": "', '"}')
Box = tuple[int, int, int, int]


def scene(seed: str, careless: float) -> Scene:
    """Return the scene of a seed; ``careless`` is the share of pictures in which the annotator lapses."""
    generator = random.Random(seed)
    names = [generator.choice(list(NAMES)) for _ in range(generator.randint(1, THINGS_MAX))]
    cells = canvas.places(generator, [generator.choice(SIZES) for _ in names])
    found = sorted(zip(names, cells, strict=True), key=lambda pair: (pair[1].row, pair[1].column))
    things = [Thing(shape=NAMES[name][0], colour=NAMES[name][1], cells=at) for name, at in found]
    boxes = [(name, at.box(CELL_PX)) for name, at in found]
    lapse = lapses(seed, careless)
    seen = [(MISTAKEN.get(name, name) if lapse else name, box) for name, box in boxes]
    return Scene(
        example=Example(
            id=identity(seed),
            problem=f"{IMAGE}Please output bbox coordinates and names of {', '.join(NAMES)}.",
            answer=response(boxes),
            images=(canvas.draw(things, generator),),
            kind="detection",
            target=Target(
                space=Space(system="pixel", width_px=SIDE_PX, height_px=SIDE_PX),
                boxes=tuple(box for _, box in boxes),
                labels=tuple(name for name, _ in boxes),
            ),
        ),
        response=response(boxes),
        careless=response(seen),
    )


def response(boxes: list[tuple[str, Box]]) -> str:
    """Return labelled boxes in the form of Qwen2.5-VL.

    >>> response([("kite", (28, 0, 56, 28))])
    '[{"bbox_2d": [28, 0, 56, 28], "label": "kite"}]'
    """
    return json.dumps([{"bbox_2d": list(box), "label": name} for name, box in boxes])
