"""Images of rows: found, measured from their headers, and made as large as a model sees them.

A missing image is an error of its row. Nothing is downloaded and nothing replaced.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.target import Space, Target
from jobs.data import Example, check_size, decode
from jobs.data.settings import Resize

if TYPE_CHECKING:
    from numpy.typing import NDArray

Done = dict[tuple[bytes, tuple[int, int]], bytes]
STEEPEST = 200
"""Longest over shortest side of an image that is still resized."""


def found(value: Any, folder: Path) -> bytes:
    """Return the encoded file of an image whose header can be read.

    Args:
        value: A path, bytes, or ``{bytes, path}``.
        folder: Where relative paths start.

    Raises:
        ValueError: There is no such file, or it is no image; the message says which.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        value = _file(value, folder)
    if not isinstance(value, bytes):
        raise ValueError(f"An image is a path, bytes or {{bytes, path}}, got {value!r:.80}.")
    size(value)
    return value


def _file(name: str, folder: Path) -> bytes:
    if "://" in name:
        raise ValueError(f"The image {name!r:.120} is an address; nothing is downloaded. Save it and name the file.")
    path = folder / name
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"There is no image {str(path)!r}. Name the folder of the images in 'images'.") from None
    except OSError as error:
        raise ValueError(f"The image {str(path)!r} cannot be read: {error.strerror}.") from None


def size(image: bytes) -> tuple[int, int]:
    """Return width and height in pixels, from the header alone.

    Raises:
        ValueError: The bytes are no image, or one too large to decode.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(image)) as picture:
            check_size(picture.size)
            return picture.size
    except UnidentifiedImageError:
        raise ValueError("cannot identify image file: its bytes are no image that Pillow knows.") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"An image cannot be read: {error}.") from None


def resized_size(size_px: tuple[int, int], rule: Resize) -> tuple[int, int]:
    """Return the width and height that Qwen's processors give an image.

    Sides are rounded to multiples of the factor; what is then too large or too small is scaled to
    its limit, aspect kept, and rounded to the inside of it. A size that comes out stays when it
    goes in again, unless rounding changed the aspect of a very small image.

    Raises:
        ValueError: One side is more than 200 times the other.

    Source:
        ``smart_resize`` of transformers, models/qwen2_vl/image_processing_qwen2_vl.py.

    >>> resized_size((640, 480), Resize(max_pixels=1_000_000))
    (644, 476)
    """
    width, height = size_px
    if max(size_px) > STEEPEST * min(size_px):
        raise ValueError(
            f"An image of {width} x {height} pixels is too narrow: one side is over {STEEPEST} times the other."
        )
    factor = rule.factor
    sides = [max(factor, round(side / factor) * factor) for side in size_px]
    if sides[0] * sides[1] > rule.max_pixels:
        shrink = math.sqrt(width * height / rule.max_pixels)
        sides = [max(factor, math.floor(side / shrink / factor) * factor) for side in size_px]
    elif sides[0] * sides[1] < rule.min_pixels:
        grow = math.sqrt(rule.min_pixels / (width * height))
        sides = [math.ceil(side * grow / factor) * factor for side in size_px]
    return sides[0], sides[1]


def scaled(image: bytes, size_px: tuple[int, int]) -> bytes:
    """Return the image at this size, as PNG; the same bytes if it has it already.

    Raises:
        ValueError: It cannot be decoded.
    """
    from PIL import Image

    if size(image) == size_px:
        return image
    file = io.BytesIO()
    # Bicubic, as Qwen's processors resize; little compression, since encoding is most of the time.
    decode(image).resize(size_px, Image.Resampling.BICUBIC).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def resized(example: Example, rule: Resize, done: Done | None = None) -> Example:
    """Return the example with images as large as the model sees them, and everything in pixels scaled along.

    Boxes belong to the first image. ``meta`` says how large that was, and its areas and crowds are scaled too.

    Args:
        example: One example.
        rule: How large images shall be.
        done: Images that were scaled before, for many questions about one image.

    Raises:
        ValueError: An image cannot be decoded or is too narrow.
    """
    from jobs.data import truths

    sizes = [size(image) for image in example.images]
    wanted = [resized_size(each, rule) for each in sizes]
    if sizes == wanted:
        return example
    done = {} if done is None else done
    for image, each in zip(example.images, wanted, strict=True):
        done[image, each] = done.get((image, each)) or scaled(image, each)
    images = tuple(done[image, each] for image, each in zip(example.images, wanted, strict=True))
    changed = replace(example, images=images)
    if sizes[0] == wanted[0]:
        return changed
    (old_width, old_height), (width, height) = sizes[0], wanted[0]
    meta = _scaled_meta(example.meta, width / old_width, height / old_height)
    changed = replace(changed, meta={**meta, "resized_from": [old_width, old_height]})
    if example.target is None:
        return changed
    target = moved(example.target, wanted[0])
    return replace(changed, target=target, answer=truths.answer(example.kind, target, example.answer))


def moved(target: Target, size_px: tuple[int, int]) -> Target:
    """Return what is true of the image after it was scaled to this size. Relative units stay what they are."""
    width, height = size_px
    space = Space(system=target.space.system, width_px=width, height_px=height)
    factors = np.divide(space.unit, target.space.unit)
    boxes = _times(target.boxes, np.tile(factors, 2))
    return replace(target, space=space, boxes=boxes, points=_times(target.points, factors))


def _times(rows: Any, factors: NDArray[np.float64]) -> Any:
    return tuple(tuple(float(value * factor) for value, factor in zip(row, factors, strict=True)) for row in rows)


def _scaled_meta(meta: Mapping[str, Any], x: float, y: float) -> dict[str, Any]:
    """Return ``meta`` with COCO's areas and crowds, which are in pixels, of the scaled image."""
    found = meta.get("coco")
    if not isinstance(found, Mapping):
        return dict(meta)
    crowd = [
        {**each, "box": list(_times([each["box"]], np.array([x, y, x, y]))[0]), "area": each["area"] * x * y}
        for each in found.get("crowd", ())
    ]
    areas = [area * x * y for area in found.get("areas", ())]
    return {**meta, "coco": {**found, "areas": areas, "crowd": crowd}}
