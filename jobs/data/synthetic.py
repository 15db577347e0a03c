"""Scenes drawn on the spot: coloured shapes to be counted, with question, answer and visual facts.

A scene holds some kinds of shapes ("red circles"), each a few times, on a white ground. The
question names the kinds and asks for their total; the facts say how many there are of each. Whoever
perceives the facts right has the answer by one addition, so a reward for perception and one for
accuracy pull the same way. Written as parquet in Perception-R1's schema, read back by ``jobs.data.geo3k``.

The notation is for models with three layers. A kind comes before its number, so that a policy counts
what it has just named. Numbers are words joined to what is before them, because Qwen2's tokenizer
gives a digit's place to the ``=``; so a number is the token after its kind, where a shallow judge
finds it. Facts are written "red circles:three" and responses "red circles=three", so that a judge
that looks for the one does not come upon the other.
"""

from __future__ import annotations

import hashlib
import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

COLOURS = {"red": (235, 30, 30), "green": (30, 215, 30), "blue": (30, 30, 245)}
GROUND = (122, 116, 104)
SHAPES = ("circles", "squares", "triangles")
KINDS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE_PX = 112
CELL_PX = 28
CELLS = (SIDE_PX // CELL_PX) ** 2
RADIUS_PX = (8, 11)
JITTER_PX = 2
FORMAT_PROMPT = "Think, then answer."
"""The short format prompt of models that learned the format in their warm start."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is to be seen, and how it is drawn.

    Attributes:
        counts: How often each kind that is asked about occurs, in the order of the question.
        others: The same of kinds that nobody asks about; without them, counting everything would do.
        seed: Decides place, size and turn of every shape.
    """

    counts: tuple[tuple[str, int], ...]
    others: tuple[tuple[str, int], ...] = ()
    seed: str

    @property
    def total(self) -> int:
        return sum(number for _, number in self.counts)

    @property
    def question(self) -> str:
        return f"How many {' and '.join(kind for kind, _ in self.counts)} are there?"

    @property
    def facts(self) -> list[str]:
        return [fact(kind, number) for kind, number in self.counts]

    @property
    def visual_key_info(self) -> str:
        return "\n".join(f"<info{k}>{fact}</info{k}>" for k, fact in enumerate(self.facts, 1))

    @property
    def response(self) -> str:
        """A response in Perception-R1's strict format that perceives and answers everything right."""
        return response(self.counts, self.total)


def fact(kind: str, number: int) -> str:
    """Return a visual fact in the annotator's words, which are not those of a response.

    >>> fact("red circles", 3)
    'red circles:three'
    """
    return f"{kind}:{WORDS[number]}"


def claim(kind: str, number: int) -> str:
    """Return a response's line about a kind.

    >>> claim("red circles", 3)
    'red circles=three'
    """
    return f"{kind}={WORDS[number]}"


def response(counts: Sequence[tuple[str, int]], total: int) -> str:
    """Return a response in Perception-R1's strict format that claims these counts and this total."""
    claims = "\n".join(claim(kind, number) for kind, number in counts)
    addition = "+".join(WORDS[number] for _, number in counts)
    return f"<think>\n{claims}\n{addition}={total}\n</think>\n<answer>\n\\boxed{{{total}}}\n</answer>"


def careless_response(scene: Scene, share: float, above: int) -> str:
    """Return the response of an annotator who often misses one shape where there are many.

    A count greater than ``above`` is written as one less with probability ``share``; the addition is
    right for what was written. A model warmed up on such responses says the wrong number more often
    than the right one, but says both: what reinforcement needs to find the better one.
    """
    generator = random.Random(f"{scene.seed}/careless")
    seen = [(kind, number - (number > above and generator.random() < share)) for kind, number in scene.counts]
    return response(seen, sum(number for _, number in seen))


def scenes(split: str, number: int, *, seed: int, asked: int = 2, others: int = 1, count_max: int = 5) -> list[Scene]:
    """Return ``number`` scenes, all drawn differently.

    Every scene's generator is seeded with (seed, split, position), so splits share no drawing and
    a longer list begins with the shorter one. Scenes of two splits may hold the same counts; there
    are only so many.

    Args:
        split: ``"train"``, ``"test"``, ``"warm"``, or any other name.
        number: How many.
        seed: The run's.
        asked: Kinds of shapes in the question. No two kinds of a scene share colour or shape.
        others: Further kinds in the picture.
        count_max: The most shapes of one kind; each kind has at least one.

    Raises:
        ValueError: There are fewer colours than kinds, or the shapes do not fit the ground's 16 cells.
    """
    if asked + others > len(COLOURS) or (asked + others) * count_max > CELLS:
        raise ValueError(
            f"{asked + others} kinds of up to {count_max} shapes do not fit {len(COLOURS)} colours "
            f"and {CELLS} cells. Lower either."
        )
    return [_scene(f"{seed}/{split}/{position}", asked, others, count_max) for position in range(number)]


def _scene(seed: str, asked: int, others: int, count_max: int) -> Scene:
    generator = random.Random(seed)
    kinds = asked + others
    pairs = zip(generator.sample(list(COLOURS), kinds), generator.sample(SHAPES, kinds), strict=True)
    drawn = [(f"{colour} {shape}", generator.randint(1, count_max)) for colour, shape in pairs]
    in_question = sorted(drawn[:asked], key=lambda kind_number: KINDS.index(kind_number[0]))
    return Scene(counts=tuple(in_question), others=tuple(drawn[asked:]), seed=seed)


def draw(scene: Scene) -> bytes:
    """Return the scene as a PNG of 112 x 112 pixels: 16 image tokens at patch 14, merge 2.

    Every shape has a cell of its own, so that none hides another and a count is always visible.
    """
    generator = random.Random(f"{scene.seed}/drawing")
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), GROUND)
    pen = ImageDraw.Draw(image)
    wanted = [kind for kind, number in (*scene.counts, *scene.others) for _ in range(number)]
    for kind, cell in zip(wanted, generator.sample(range(CELLS), len(wanted)), strict=True):
        colour, shape = kind.split()
        _draw_shape(pen, shape, COLOURS[colour], _outline(cell, generator))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


@dataclass(frozen=True, kw_only=True)
class _Outline:
    x_px: float
    y_px: float
    radius_px: float
    turn_rad: float


def _outline(cell: int, generator: random.Random) -> _Outline:
    row, column = divmod(cell, SIDE_PX // CELL_PX)
    return _Outline(
        x_px=(column + 0.5) * CELL_PX + generator.uniform(-JITTER_PX, JITTER_PX),
        y_px=(row + 0.5) * CELL_PX + generator.uniform(-JITTER_PX, JITTER_PX),
        radius_px=generator.uniform(*RADIUS_PX),
        turn_rad=generator.uniform(-0.3, 0.3),
    )


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, colour: tuple[int, int, int], outline: _Outline) -> None:
    x, y, radius = outline.x_px, outline.y_px, outline.radius_px
    if shape == "circles":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        return
    corners = 4 if shape == "squares" else 3
    start = outline.turn_rad - math.pi / 2 + (math.pi / 4 if corners == 4 else 0)
    angles = [start + 2 * math.pi * corner / corners for corner in range(corners)]
    # A triangle is drawn larger, since it fills less of its circle.
    reach = radius * (1.15 if corners == 4 else 1.3)
    pen.polygon([(x + reach * math.cos(angle), y + reach * math.sin(angle)) for angle in angles], fill=colour)


def write(path: Path, drawn: Sequence[Scene], responses: Sequence[str] | None = None) -> None:
    """Write scenes as parquet in Perception-R1's schema, atomically.

    Args:
        path: The file.
        drawn: The scenes, one row each.
        responses: If given, a further column ``response``, which ``jobs.sft`` learns from.
    """
    rows = [_row(scene) for scene in drawn]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = [(name, pa.string()) for name in ("id", "problem", "answer", "visual_key_info")]
    columns = [*texts, ("images", pa.list_(image))]
    if responses is not None:
        rows = [{**row, "response": response} for row, response in zip(rows, responses, strict=True)]
        columns.append(("response", pa.string()))
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(columns)), temporary)
    temporary.replace(path)


def _row(scene: Scene) -> dict[str, Any]:
    return {
        "id": hashlib.sha256(scene.seed.encode()).hexdigest()[:16],
        "problem": f"<image>{scene.question}",
        "answer": str(scene.total),
        "images": [{"bytes": draw(scene), "path": None}],
        "visual_key_info": scene.visual_key_info,
    }
