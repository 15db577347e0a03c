"""Geometry3K in parquet: plain, or with the visual annotations of Perception-R1.

Columns: ``problem``, ``answer``, ``images`` (a list; each a path, bytes, or ``{bytes, path}``) and,
optionally, ``visual_key_info``, ``id``, ``choices``. Other columns are left alone. Read with pyarrow
from local files only; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.data import Example, gather, images, prompts, rows, truths
from jobs.data.rows import Row
from jobs.data.settings import Options
from orchestrator.errors import InputError, Problem

REQUIRED = ("problem", "answer", "images")


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return every row of a parquet file, or of a folder's parquet files in the order of their names.

    A problem without ``<image>`` gets one in front for each image. A row without ``id`` is named by
    the sha256 of what it holds; a repeated row gets ``-2``, ``-3``, so that ids stay unique.

    Raises:
        NotFound: There is no such file.
        InputError: The file is not parquet, lacks a column, or has rows that cannot be used; all
            of them are listed with their numbers, counted from 0 in each file.
    """
    for file in rows.files(path, "geo3k", [".parquet"]):
        _check_columns(file, options)
    return gather.load(path, "geo3k", options, _example, [".parquet"], ids=True)


def _check_columns(file: Path, options: Options) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_schema(file).names
    except pa.ArrowInvalid as error:
        raise InputError(f"{file}: Not a parquet file: {error}.") from None
    wanted = [options.columns.get(name, name) for name in REQUIRED]
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise InputError(f"{file}: No column {', '.join(missing)}. The file has: {', '.join(columns)}.")


def _example(row: Row, options: Options) -> Example:
    problems: list[Problem] = []
    texts = {name: _text(row, options, name, problems) for name in ("problem", "answer")}
    pictures = _images(row, options, problems)
    if problems:
        raise gather.Several(problems)
    kind = options.kind or "math"
    answer = truths.text(kind, texts["answer"])
    annotation = row.values.get("visual_key_info") or None
    problem = gather.with_placeholders(prompts.filled(options.prompt, "plain", texts["problem"]), len(pictures))
    identity = str(row.values.get("id") or "")
    # Named by what the file says, so that ids stay the same whatever is made of it.
    digest = gather.digest(
        gather.with_placeholders(texts["problem"], len(pictures)), texts["answer"], annotation or "", *pictures
    )
    return Example(
        id=identity or digest,
        problem=problem,
        answer=answer,
        images=tuple(pictures),
        visual_key_info=annotation,
        kind=kind,
        meta=_choices(row),
        place=row.place,
    )


def _text(row: Row, options: Options, name: str, problems: list[Problem]) -> str:
    try:
        return gather.words(gather.column(row, options, name), name)
    except ValueError as error:
        problems.append(Problem(place=row.place, fact=str(error)))
        return ""


def _images(row: Row, options: Options, problems: list[Problem]) -> list[bytes]:
    values = gather.column(row, options, "images")
    if not values:
        problems.append(Problem(place=row.place, fact="images is empty."))
    found = []
    for position, value in enumerate(values or ()):
        try:
            found.append(images.found(value, row.folder))
        except ValueError as error:
            problems.append(Problem(place=f"{row.place}, image {position}", fact=f"{error}".rstrip(".") + "."))
    return found


def _choices(row: Row) -> dict[str, Any]:
    """Return the options of plain Geometry3K, and the letter of the true one."""
    choices, letter = row.values.get("choices"), row.values.get("ground_truth")
    if not choices:
        return {}
    return {"choices": list(choices), **({"choice": letter} if isinstance(letter, str) else {})}
