"""Rows of files, each with the place where it stands: JSON, JSONL, CSV, TSV, parquet."""

from __future__ import annotations

import csv
import json
import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.data import settings
from jobs.data.settings import HOW_TO_GET, TAKE
from orchestrator.errors import InputError, NotFound, Problem

BATCH_ROWS = 256
TABLES = {".csv": ",", ".tsv": "\t"}
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row.

    Attributes:
        place: File and line, ``"train.jsonl:12"``; of parquet file and number, from 0.
        values: What it holds.
        folder: Where its image paths start.
        file: The file's name without suffix.
    """

    place: str
    values: Mapping[str, Any]
    folder: Path
    file: str


Rows = Sequence[Row | Problem]
"""Rows in the order of the file, and in the place of those that cannot be read what is wrong with them."""


def positions(rule: str | None, total: int) -> Sequence[int]:
    """Return which of ``total`` rows ``first:N``, ``end:N`` or ``random:N`` means, in order; None means all.

    Shares are rounded up. Random rows are drawn with a seed of their own, so that every reading has the same.

    >>> list(positions("end:2", 5)), list(positions("first:30%", 5))
    ([3, 4], [0, 1])
    """
    if rule is None:
        return range(total)
    match = TAKE.fullmatch(rule)
    if match is None:
        raise InputError(f"take: {rule!r} is not first:N, end:N or random:N, with N a number or a share such as 10%.")
    which, amount = match.groups()
    share = amount.endswith("%")
    wanted = math.ceil(float(amount[:-1]) / 100 * total) if share else int(amount)
    number = min(wanted, total)
    if which == "random":
        return sorted(random.Random(SEED).sample(range(total), number))
    return range(number) if which == "first" else range(total - number, total)


def files(path: Path, source: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the files that a path names: one, several joined by ``:``, or a folder's in the order of their names.

    Raises:
        NotFound: One is not there; the message says how to get it.
        InputError: A file has another suffix, or a folder's files are of several splits.
    """
    found: list[Path] = []
    for name in settings.files(str(path)):
        found += _of_folder(Path(name), suffixes) if Path(name).is_dir() else [Path(name)]
    missing = [str(each) for each in found if not each.is_file()] or ([] if found else [str(path)])
    if missing:
        raise NotFound(f"{', '.join(missing)}: no such {suffixes[0][1:]} file. {HOW_TO_GET.get(source, '')}".rstrip())
    for each in found:
        if each.suffix not in suffixes:
            raise InputError(
                f"{each}: The source {source!r} reads {', '.join(suffixes)}, not {each.suffix or 'no suffix'!r}."
            )
    return found


def _of_folder(path: Path, suffixes: Sequence[str]) -> list[Path]:
    found = sorted(file for suffix in suffixes for file in path.glob(f"*{suffix}"))
    splits = sorted({file.name.split("-")[0] for file in found})
    if len(splits) > 1:
        raise InputError(f"{path}: The folder mixes the splits {', '.join(splits)}. Name one file, or a folder of one.")
    return found


def folders(images: str | None, found: Sequence[Path]) -> list[Path]:
    """Return the folder that the image paths of each file start from.

    Raises:
        InputError: There are neither as many folders as files nor one.
    """
    if images is None:
        return [file.parent for file in found]
    given = [images] if Path(images).exists() else images.split(":")
    if len(given) not in (1, len(found)):
        raise InputError(f"images: {len(given)} folders for {len(found)} files. Name one for all, or one for each.")
    return [Path(each) for each in given * (len(found) if len(given) == 1 else 1)]


def read(file: Path, folder: Path, take: str | None = None) -> Rows:
    """Return the rows of a file, by its suffix.

    Args:
        file: ``.json`` (a list), ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``.
        folder: Where its image paths start.
        take: Which of them, see ``positions``.

    Raises:
        InputError: The file as a whole cannot be read.
    """
    if file.suffix == ".parquet":
        return list(_parquet(file, folder, take))
    if file.suffix in TABLES:
        found: list[Row | Problem] = list(_table(file, folder))
    else:
        found = list(_lines(file, folder) if file.suffix == ".jsonl" else _list(file, folder))
    return [found[position] for position in positions(take, len(found))]


def text_of(file: Path) -> str:
    """Return a file's text.

    Raises:
        InputError: It is not UTF-8; the message says in which line.
    """
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{file}:{line}: is not UTF-8 text. Save the file as UTF-8.") from None


def _lines(file: Path, folder: Path) -> Iterator[Row | Problem]:
    for number, line in enumerate(text_of(file).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{file.name}:{number}"
        try:
            yield _row(json.loads(line), place, file, folder)
        except (json.JSONDecodeError, RecursionError) as error:
            yield Problem(place=place, fact=f"The line is not JSON: {error}.")


def _list(file: Path, folder: Path) -> Iterator[Row | Problem]:
    """Yield the items of a list, each with the line on which it begins."""
    text = text_of(file)
    decoder = json.JSONDecoder()
    position = _skip(text, 0, " \t\r\n")
    if text[position : position + 1] != "[":
        raise InputError(f"{file}: The file is not a JSON list of rows.")
    line, counted = 1, 0
    position = _skip(text, position + 1, " \t\r\n")
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        place = f"{file.name}:{line}"
        try:
            value, position = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{file}:{line}: not JSON: {error}. Rows after it cannot be read.") from None
        yield _row(value, place, file, folder)
        position = _skip(text, position, " \t\r\n")
        if text[position : position + 1] == ",":
            position = _skip(text, position + 1, " \t\r\n")
        elif text[position : position + 1] != "]":
            raise InputError(f"{file}:{line}: not JSON: the list is not closed. Rows after it cannot be read.")


def _skip(text: str, position: int, what: str) -> int:
    while position < len(text) and text[position] in what:
        position += 1
    return position


def _row(value: Any, place: str, file: Path, folder: Path) -> Row | Problem:
    if not isinstance(value, dict):
        return Problem(place=place, fact=f"A row is an object, got {value!r:.80}.")
    return Row(place=place, values=value, folder=folder, file=file.stem)


def _table(file: Path, folder: Path) -> Iterator[Row | Problem]:
    # Encoded images are longer than the largest cell that is read by default.
    csv.field_size_limit(sys.maxsize)
    with file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.DictReader(opened, delimiter=TABLES[file.suffix], strict=True)
        line = 1
        try:
            for values in reader:
                # A cell may hold line breaks: a row begins after the one before has ended.
                place, line = f"{file.name}:{line + 1}", reader.line_num
                if None in values or None in values.values():
                    yield Problem(
                        place=place, fact=f"The row does not have the {len(reader.fieldnames or ())} cells of the head."
                    )
                else:
                    yield Row(place=place, values=values, folder=folder, file=file.stem)
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{file}:{line + 1}: cannot be read: {error}.") from None


def _parquet(file: Path, folder: Path, take: str | None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise InputError(f"{file}: Not a parquet file: {error}.") from None
    wanted = set(positions(take, parquet.metadata.num_rows))
    number = 0
    for batch in parquet.iter_batches(batch_size=BATCH_ROWS):
        numbers = [each for each in range(number, number + batch.num_rows) if each in wanted]
        kept = batch.take(pa.array([each - number for each in numbers], pa.int64())) if numbers else None
        number += batch.num_rows
        for each, values in zip(numbers, kept.to_pylist() if kept else (), strict=True):
            yield Row(place=f"{file.name}, row {each}", values=values, folder=folder, file=file.stem)
