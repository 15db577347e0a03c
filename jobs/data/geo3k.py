"""Geometry3K in parquet: plain, or with the visual annotations of Perception-R1.

Columns: ``problem``, ``answer``, ``images`` (a list; each a path, bytes, or ``{bytes, path}``) and,
optionally, ``visual_key_info``, ``id``. Other columns (``choices``, ``ground_truth``) are left alone.
Read with pyarrow from local files only; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from eval.answers import delimited
from jobs.data import IMAGE, Example, check_size
from jobs.data.settings import HOW_TO_GET
from orchestrator.errors import InputError, NotFound, Problem, all_at_once

REQUIRED = ("problem", "answer", "images")
OPTIONAL = ("visual_key_info", "id")
BATCH_ROWS = 256


def load(path: Path) -> list[Example]:
    """Return every row of a parquet file, or of a folder's parquet files in the order of their names.

    A problem without ``<image>`` gets one in front for each image. A row without ``id`` is named by
    the sha256 of what it holds; a repeated row gets ``-2``, ``-3``, so that ids stay unique.

    Raises:
        NotFound: There is no such file.
        InputError: The file is not parquet, lacks a column, or has rows that cannot be used; all
            of them are listed with their numbers, counted from 0 over all files.
    """
    problems: list[Problem] = []
    examples: list[Example] = []
    copies: Counter[str] = Counter()
    for number, (file, row) in enumerate(_rows(path)):
        example = _example(row, file.parent, f"row {number}", problems)
        if example is None:
            continue
        copies[example.id] += 1
        if copies[example.id] > 1 and row.get("id"):
            problems.append(Problem(place=f"row {number}", fact=f"Its id {example.id!r} is taken by an earlier row."))
        examples.append(_numbered(example, copies[example.id]))
    if problems:
        raise all_at_once(str(path), problems)
    if not examples:
        raise InputError(f"{path}: The file has no rows.")
    return examples


def _rows(path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for file in _files(path):
        try:
            parquet = pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise InputError(f"{file}: Not a parquet file: {error}.") from None
        columns = parquet.schema_arrow.names
        missing = [name for name in REQUIRED if name not in columns]
        if missing:
            raise InputError(f"{file}: No column {', '.join(missing)}. The file has: {', '.join(columns)}.")
        wanted = [name for name in (*REQUIRED, *OPTIONAL) if name in columns]
        for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=wanted):
            yield from ((file, row) for row in batch.to_pylist())


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(path.glob("*.parquet")) if path.is_dir() else []
    splits = sorted({file.name.split("-")[0] for file in files})
    if len(splits) > 1:
        raise InputError(f"{path}: The folder mixes the splits {', '.join(splits)}. Name one file, or a folder of one.")
    if not files:
        raise NotFound(f"{path}: no such parquet file. {HOW_TO_GET['geo3k']}")
    return files


def _example(row: Mapping[str, Any], folder: Path, place: str, problems: list[Problem]) -> Example | None:
    """Return the row as an example, or note what is wrong with it and return None."""
    before = len(problems)
    texts = {name: _text(row, name, place, problems) for name in ("problem", "answer")}
    images = _images(row["images"], folder, place, problems)
    problem = _with_placeholders(texts["problem"], len(images), place, problems) if images else ""
    annotation = row.get("visual_key_info") or None
    if len(problems) > before:
        return None
    identity = str(row.get("id") or "") or _digest(problem, texts["answer"], annotation or "", *images)
    return Example(
        id=identity, problem=problem, answer=delimited(texts["answer"]), images=images, visual_key_info=annotation
    )


def _text(row: Mapping[str, Any], name: str, place: str, problems: list[Problem]) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        problems.append(Problem(place=place, fact=f"{name} must be a text, got {value!r}."))
        return ""
    return value


def _images(values: Any, folder: Path, place: str, problems: list[Problem]) -> tuple[bytes, ...]:
    if not values:
        problems.append(Problem(place=place, fact="images is empty."))
        return ()
    images = []
    for position, value in enumerate(values):
        try:
            image = _bytes(value, folder)
            check_size(Image.open(io.BytesIO(image)).size)
        except (ValueError, OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            problems.append(Problem(place=f"{place}, image {position}", fact=f"{error}".rstrip(".") + "."))
        else:
            images.append(image)
    return tuple(images) if len(images) == len(values) else ()


def _bytes(value: Any, folder: Path) -> bytes:
    """Return an image's file; a relative path is taken from the parquet file's folder."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value:
        return (folder / value).read_bytes()
    raise ValueError(f"An image is a path, bytes or {{bytes, path}}, got {value!r}.")


def _with_placeholders(problem: str, images: int, place: str, problems: list[Problem]) -> str:
    found = problem.count(IMAGE)
    if found not in (0, images):
        problems.append(Problem(place=place, fact=f"problem has {found} {IMAGE} for {images} image(s)."))
    return problem if found else IMAGE * images + problem


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        # The length keeps ("ab", "c") apart from ("a", "bc").
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def _numbered(example: Example, copy: int) -> Example:
    return example if copy == 1 else replace(example, id=f"{example.id}-{copy}")
