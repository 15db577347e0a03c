"""Problems with images: one record for every source, read from local files.

A source is a function from a path, and maybe options, to examples. ``SOURCES`` names the known ones;
any other is ``package.module:function``. Nothing here knows a model; ``jobs.vlm`` turns examples
into tokens. ``python -m jobs.data`` checks, converts, shows and partitions files.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval import benchmarks
from eval.facts import numbered
from jobs.data.settings import Data, Options
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from eval.target import Kind, Target

SOURCES = {
    "geo3k": "jobs.data.geo3k:load",
    "perception_r1": "jobs.data.geo3k:load",
    "vlm_r1": "jobs.data.vlm_r1:load",
    "pr1": "jobs.data.pr1:load",
    "refcoco": "jobs.data.refcoco:load",
    "pixmo_count": "jobs.data.pixmo_count:load",
    "page_ocr": "jobs.data.page_ocr:load",
    "coco": "jobs.data.coco:load",
    "llama_factory": "jobs.data.llama_factory:load",
    "vlmevalkit": "jobs.data.vlmevalkit:load",
    "verl": "jobs.data.verl:load",
    "plain": "jobs.data.plain:load",
    "examples": "jobs.data.canonical:load",
    **benchmarks.SOURCES,
}
IMAGE = "<image>"
PIXELS_MAX = 64 * 1024 * 1024
FORMAT_PROMPT = (
    "Reason about the problem as an internal monologue before you give the final answer. "
    "Put the reasoning between <think> and </think> and the answer between <answer> and </answer>. "
    "Inside <answer> the final answer stands in \\boxed{}."
)
"""What is appended to a problem so that the reply has Perception-R1's form, in our words."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One problem.

    Attributes:
        id: Unique within its file, and the same at every reading.
        problem: The question, with one ``<image>`` for each image, in order.
        answer: The truth, delimited so that math-verify parses all of it.
        images: Encoded image files, such as PNG.
        visual_key_info: Visual annotations as numbered tags, ``<info1>..</info1>\\n<info2>..``.
            None if the problem has none.
        kind: What the truth is of, which decides how an answer is read and measured.
        target: The truth in numbers, for problems about boxes, points and counts.
        meta: What the source says besides, as JSON: choices, split, category.
        place: Where it was read, such as ``"train.jsonl:12"``. Two examples that differ in nothing else are equal.
    """

    id: str
    problem: str
    answer: str
    images: tuple[bytes, ...]
    visual_key_info: str | None = None
    kind: Kind = "math"
    target: Target | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    place: str = field(default="", compare=False)


def read(data: Data) -> list[Example]:
    """Return the examples that a recipe's section names. See ``load``."""
    return load(data.source, Path(data.path), data)


def load(source: str, path: Path, options: Options | None = None) -> list[Example]:
    """Return the examples that ``source`` reads from ``path``.

    Args:
        source: A name in ``SOURCES``, or ``package.module:function``.
        path: A file, or a folder of the files of one split.
        options: How to read it. A function without a parameter ``options`` is not told; images are
            resized for it, and rows taken, afterwards.

    Raises:
        InputError: There is no such source, or rows of the file cannot be used; all are listed.
        NotFound: There is no such file; the message says how to get it.
    """
    from jobs.data import images, rows

    options = options or Options()
    reader = find(source)
    if "options" in inspect.signature(reader).parameters:
        return reader(path, options)
    examples = reader(path)
    kept = [examples[position] for position in rows.positions(options.take, len(examples))]
    return [images.resized(example, options.resize) for example in kept] if options.resize else kept


def find(source: str) -> Callable[..., list[Example]]:
    """Return the reading function of a source's name, or of ``package.module:function``.

    Raises:
        InputError: There is none; the message names those that exist and the nearest.
    """
    target = SOURCES.get(source, source)
    module, colon, attribute = target.partition(":")
    if not colon:
        near = difflib.get_close_matches(source, SOURCES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"data source: There is no source {source!r}.{hint} "
            f"Known: {', '.join(sorted(SOURCES))}; or write package.module:function."
        )
    try:
        reader: Callable[..., list[Example]] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"data source: {target!r} cannot be imported: {error}.") from None
    return reader


def prompt(example: Example, format_prompt: str) -> str:
    """Return what the user says: the problem, a space and the format prompt.

    Training, evaluation and the warm start must all use this and the same ``format_prompt``. An
    empty one leaves the problem alone.
    """
    return f"{example.problem} {format_prompt}".rstrip() if format_prompt else example.problem


def decode(image: bytes) -> Image.Image:
    """Return an encoded image as RGB pixels.

    Transparency is laid on white: a line drawing saved with a transparent ground would turn into
    black on black if the ground were dropped, as a bare conversion to RGB does.

    Raises:
        ValueError: The bytes are no image, or one of more than ``PIXELS_MAX`` pixels, which is
            known from the header before anything is decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        picture: Image.Image = Image.open(io.BytesIO(image))
        check_size(picture.size)
        if picture.has_transparency_data:
            layer = picture.convert("RGBA")
            picture = Image.new("RGBA", layer.size, "white")
            picture.alpha_composite(layer)
        return picture.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        # Pillow answers damaged PNG chunks with SyntaxError.
        raise ValueError(f"{len(image)} bytes are not an image Pillow can read: {error}.") from None


def check_size(size_px: tuple[int, int]) -> None:
    """Raise ValueError if an image of this size would exhaust memory when decoded."""
    if size_px[0] * size_px[1] > PIXELS_MAX:
        raise ValueError(f"An image of {size_px[0]} x {size_px[1]} pixels is larger than {PIXELS_MAX} pixels.")


def facts(visual_key_info: str | None) -> list[str]:
    """Return the texts of the numbered ``<infoK>`` tags, in the order of writing.

    None and "" have no facts; a text without tags is one. The reading is that of the reward.

    >>> facts("<info1>AB = 3</info1>\\n<info2>angle C is right</info2>")
    ['AB = 3', 'angle C is right']
    """
    return list(numbered(visual_key_info).values())
