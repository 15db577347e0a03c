"""A run's images as they lie in the page: each once, small enough that all of them fit.

As long as there is room an image is put in as it is. Else all large ones are made smaller, by the
mildest of a few rungs that fits; what does not fit even then is left out and said to be.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.run_directory import RunDirectory

if TYPE_CHECKING:
    from PIL import Image

REFERENCE = re.compile(r"images/[0-9a-f]{16}\.(png|jpg|img)")
MAGIC = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}
RUNGS = ((640, 82), (448, 78), (384, 75), (320, 72), (256, 68), (192, 62), (128, 50))
"""Longest side in pixels, and JPEG's quality."""
WHOLE_BYTES_MAX = 400_000
"""A larger image is made smaller even where there is room."""
TRIED = 16
"""Images that are made smaller to find out whether a rung fits."""
MARGIN = 0.92


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One encoded image.

    Attributes:
        kind: ``png``, ``jpeg`` or ``gif``.
        content: Its bytes.
    """

    kind: str
    content: bytes

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.content).decode()}"


def load(run: RunDirectory, references: Sequence[str], budget_bytes: int) -> list[Picture | None]:
    """Return the images that a log names, None for what is not there, is no image, or finds no room.

    Args:
        run: The run; only names that we gave are followed, and no links.
        references: What the log says, each once.
        budget_bytes: Most bytes of all together.
    """
    paths = [_path(run, reference) for reference in references]
    sizes = [path.stat().st_size if path else 0 for path in paths]
    side, quality, threshold = RUNGS[0][0], RUNGS[0][1], WHOLE_BYTES_MAX
    if sum(min(size, WHOLE_BYTES_MAX) for size in sizes) > budget_bytes * MARGIN:
        side, quality, threshold = _rung([path for path in paths if path], sizes, budget_bytes)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # Pillow's decoders let go of the interpreter's lock
        found = list(pool.map(lambda path: _picture(path, side, quality, threshold) if path else None, paths))
    return _fitting(found, budget_bytes)


def one(run: RunDirectory, reference: Any) -> str:
    """Return a recorded image as a data URI; empty if it is not there or is none."""
    path = _path(run, reference)
    picture = _picture(path, *RUNGS[0], WHOLE_BYTES_MAX) if path else None
    return picture.uri if picture else ""


def _path(run: RunDirectory, reference: Any) -> Path | None:
    """Return where an image lies; None for any name but our own: a log must not make the page hold other files."""
    if not isinstance(reference, str) or not REFERENCE.fullmatch(reference):
        return None
    path = run.path / reference
    return path if path.is_file() and not path.is_symlink() else None


def _rung(paths: Sequence[Path], sizes: Sequence[int], budget_bytes: int) -> tuple[int, int, int]:
    """Return side, quality, and the size from which an image is made smaller, of the mildest rung that should fit."""
    threshold = budget_bytes // max(1, len(paths)) // 2
    kept = sum(size for size in sizes if size <= threshold)
    large = [path for path in paths if path.stat().st_size > threshold]
    tried = large[:: max(1, len(large) // TRIED)]
    for side, quality in RUNGS[:-1]:
        smaller = [_smaller(path.read_bytes(), side, quality) for path in tried]
        mean = sum(len(picture.content) for picture in smaller if picture) / max(1, len(tried))
        if kept + mean * len(large) <= budget_bytes * MARGIN:
            return side, quality, threshold
    return *RUNGS[-1], threshold


def _picture(path: Path, side: int, quality: int, threshold: int) -> Picture | None:
    content = path.read_bytes()
    kind = next((kind for magic, kind in MAGIC.items() if content.startswith(magic)), "")
    if kind and len(content) <= threshold:
        return Picture(kind=kind, content=content)
    smaller = _smaller(content, side, quality)
    if smaller and kind and len(smaller.content) >= len(content):
        return Picture(kind=kind, content=content)
    return smaller


def _smaller(content: bytes, side: int, quality: int) -> Picture | None:
    """Return a small JPEG; None if these bytes are no image."""
    from PIL import Image, UnidentifiedImageError  # only pages with large or rare images need it

    try:
        with Image.open(io.BytesIO(content)) as picture:
            # Without a gap a JPEG of twice the side or more is decoded at half the size, in half the time.
            picture.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=1.0)
            file = io.BytesIO()
            _flat(picture).save(file, "JPEG", quality=quality)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
    return Picture(kind="jpeg", content=file.getvalue())


def _flat(picture: Image.Image) -> Image.Image:
    """Return the picture in colours that JPEG has; what is transparent becomes white, as on the page."""
    from PIL import Image

    if picture.mode not in ("RGBA", "LA", "PA", "P"):
        return picture.convert("RGB")
    over = picture.convert("RGBA")
    ground = Image.new("RGBA", over.size, "white")
    return Image.alpha_composite(ground, over).convert("RGB")


def _fitting(pictures: Sequence[Picture | None], budget_bytes: int) -> list[Picture | None]:
    taken = 0
    fitting: list[Picture | None] = []
    for picture in pictures:
        fits = picture is not None and taken + len(picture.content) <= budget_bytes
        taken += len(picture.content) if picture is not None and fits else 0
        fitting.append(picture if fits else None)
    return fitting
