"""Grounding: one thing is named by colour and shape, its box is asked for, in Qwen2-VL's form.

Every other thing shares the colour or the shape, so both words matter. The careless annotator draws the
boxes of things in the right half one cell too far left, which overlap the truth by a third at most.
"""

from __future__ import annotations

import random

from eval.target import Space, Target
from jobs.data import IMAGE, Example
from jobs.data.scenes import canvas
from jobs.data.scenes.canvas import CELLS, SIDE_PX, Cells, Thing
from jobs.data.scenes.scene import Scene, identity, lapses

UNIT = 1000 // CELLS
SIZES = ((1, 1), (2, 1), (1, 2), (2, 2))
WORDS = (*(str(UNIT * step) for step in range(CELLS + 1)), "),(")


def scene(seed: str, careless: float) -> Scene:
    """Return the scene of a seed; ``careless`` is the share of pictures in which the annotator lapses."""
    generator = random.Random(seed)
    (colour, other_colour), (shape, other_shape) = (
        generator.sample(names, 2) for names in (list(canvas.COLOURS), list(canvas.SHAPES))
    )
    kinds = [(colour, shape), (colour, other_shape), (other_colour, shape)]
    cells = canvas.places(generator, [generator.choice(SIZES) for _ in kinds])
    things = [Thing(colour=c, shape=s, cells=at) for (c, s), at in zip(kinds, cells, strict=True)]
    asked, at = f"{colour} {shape}", cells[0]
    box = at.box(UNIT)
    wrong = _shifted(at) if at.column >= CELLS // 2 and lapses(seed, careless) else at
    return Scene(
        example=Example(
            id=identity(seed),
            problem=f"{IMAGE}Output the bounding box of the {asked} in the image.",
            answer=str(list(box)),
            images=(canvas.draw(things, generator),),
            kind="grounding",
            target=Target(
                space=Space(system="rel1000", width_px=SIDE_PX, height_px=SIDE_PX), boxes=(box,), labels=(asked,)
            ),
        ),
        response=response(asked, box),
        careless=response(asked, wrong.box(UNIT)),
    )


def response(asked: str, *boxes: tuple[int, int, int, int]) -> str:
    """Return boxes of what was asked for in the form of Qwen2-VL.

    >>> response("red circle", (250, 0, 500, 250))
    '<|object_ref_start|>red circle<|object_ref_end|><|box_start|>(250,0),(500,250)<|box_end|>'
    """
    written = "".join(f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>" for x1, y1, x2, y2 in boxes)
    return f"<|object_ref_start|>{asked}<|object_ref_end|>{written}"


def _shifted(at: Cells) -> Cells:
    return Cells(column=at.column - 1, row=at.row, columns=at.columns, rows=at.rows)
