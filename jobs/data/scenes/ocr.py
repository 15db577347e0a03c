"""OCR: one to four lines of one word, to be written down.

The careless annotator often stops a line early, on pages of more than two lines.
"""

from __future__ import annotations

import random

from PIL import Image, ImageDraw, ImageFont

from jobs.data import IMAGE, Example
from jobs.data.scenes import canvas
from jobs.data.scenes.canvas import SIDE_PX
from jobs.data.scenes.scene import Scene, identity, lapses

LEXICON = ("apple", "bread", "cloud", "dance", "fruit", "honey", "jewel", "knife", "music", "night", "ocean", "table")
FONT_PX = 23
LEFT_PX = (8, 10)
LINES_MAX = 4
LINE_PX = SIDE_PX // LINES_MAX
MANY = 2
PAPER, RULE, INK = (243, 243, 243), (150, 190, 243), (20, 20, 20)
WORDS: tuple[str, ...] = ()


def scene(seed: str, careless: float) -> Scene:
    """Return the scene of a seed; ``careless`` is the share of pictures in which the annotator lapses."""
    generator = random.Random(seed)
    lines = generator.sample(LEXICON, generator.randint(1, LINES_MAX))
    seen = lines[: len(lines) - (len(lines) > MANY and lapses(seed, careless))]
    return Scene(
        example=Example(
            id=identity(seed),
            problem=f"{IMAGE}OCR this image.",
            answer="\n".join(lines),
            images=(_page(lines, generator),),
            kind="ocr",
            meta={"language": "en", "lines": len(lines)},
        ),
        response="\n".join(lines),
        careless="\n".join(seen),
    )


def _page(lines: list[str], generator: random.Random) -> bytes:
    """Return one word a line, black on ruled paper."""
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), canvas.shade(PAPER, generator))
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(FONT_PX)
    for at in range(0, SIDE_PX, canvas.LINES_PX):
        pen.line((0, at, SIDE_PX, at), fill=canvas.shade(RULE, generator), width=2)
    for row, word in enumerate(lines):
        pen.text(
            (generator.randint(*LEFT_PX), (row + 0.5) * LINE_PX + generator.randint(-1, 1)),
            word,
            fill=canvas.shade(INK, generator),
            font=font,
            anchor="lm",
        )
    return canvas.png(image)
