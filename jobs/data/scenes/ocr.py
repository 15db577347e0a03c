"""OCR: lines of words, to be written down.

The careless annotator often stops a line early, on pages of more than two lines.
"""

from __future__ import annotations

import random

from PIL import Image, ImageDraw, ImageFont

from jobs.data import IMAGE, Example
from jobs.data.scenes import canvas
from jobs.data.scenes.canvas import CELL_PX, CELLS, SIDE_PX
from jobs.data.scenes.scene import Scene, identity, lapses

LEXICON = (
    "apple", "bread", "cloud", "dance", "eagle", "fruit", "glass", "honey",
    "ivory", "jewel", "knife", "lemon", "music", "night", "ocean", "paper",
)  # fmt: skip
FONT_PX = 22
MARGIN_PX = 8
LINES = (2, 4)
MANY = 2
WORDS: tuple[str, ...] = ()


def scene(seed: str, careless: float) -> Scene:
    """Return the scene of a seed; ``careless`` is the share of pictures in which the annotator lapses."""
    generator = random.Random(seed)
    lines = [generator.choice(LEXICON) for _ in range(generator.randint(*LINES))]
    seen = lines[: len(lines) - (len(lines) > MANY and lapses(seed, careless))]
    text = "\n".join(lines)
    return Scene(
        example=Example(
            id=identity(seed),
            problem=f"{IMAGE}OCR this image.",
            answer=text,
            images=(_page(lines, generator),),
            kind="ocr",
            meta={"language": "en"},
        ),
        response=text,
        careless="\n".join(seen),
    )


def _page(lines: list[str], generator: random.Random) -> bytes:
    """Return one word a row of cells, black on white."""
    image = Image.new("RGB", (SIDE_PX, CELLS * CELL_PX), "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(FONT_PX)
    for row, word in enumerate(lines):
        left = generator.randint(MARGIN_PX - 2, MARGIN_PX + 2)
        pen.text((left, row * CELL_PX + CELL_PX / 2), word, fill="black", font=font, anchor="lm")
    return canvas.png(image)
