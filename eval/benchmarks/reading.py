"""What the readers share: finding files, images inside texts, lists of options, the two prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval import choices
from eval.answers import delimited
from eval.benchmarks import HOW_TO_GET, OWN
from jobs.data import IMAGE, Example, gather, images, rows
from jobs.data.gather import Make
from jobs.data.rows import Row
from jobs.data.settings import Options
from orchestrator.errors import NotFound

NUMBERED = re.compile(r"<image[ _]?(\d+)>")
SUFFIXES = (".parquet", ".json")


def load(path: Path, source: str, options: Options, make: Make, patterns: Sequence[str]) -> list[Example]:
    """Return an example for every row of the files that ``path`` names.

    Args:
        path: A file, or a folder.
        source: The benchmark's name.
        options: How to read.
        make: From a row to an example.
        patterns: Of the files in a folder; those of the first that finds any are read, by name.

    Raises:
        NotFound: There is no such file; the message says how to get it.
        InputError: Rows cannot be used; all are listed.
    """
    found = [path] if path.is_file() else _of_folder(path, patterns)
    missing = f"{path}: no such file, and no folder with {' or '.join(patterns)}. {HOW_TO_GET[source]}"
    if not found or any(each.suffix not in SUFFIXES for each in found):
        raise NotFound(missing)
    folders = rows.folders(options.images, found)
    total = [row for file, folder in zip(found, folders, strict=True) for row in rows.read(file, folder)]
    taken = [total[position] for position in rows.positions(options.take, len(total))]
    return gather.examples(path, options, taken, make)


def _of_folder(path: Path, patterns: Sequence[str]) -> list[Path]:
    for pattern in patterns:
        found = sorted(path.glob(pattern)) if path.is_dir() else []
        if found:
            return found
    return []


def example(
    row: Row,
    options: Options,
    *,
    kind: str,
    question: str,
    own: str,
    answer: str,
    pictures: Sequence[bytes],
    identity: Any,
    meta: Mapping[str, Any],
) -> Example:
    """Return an example that asks in system A's words, or, with ``prompt: own``, in the benchmark's.

    Args:
        row: Where it comes from.
        options: With the prompt.
        kind: ``math``, ``choice`` or ``text``.
        question: As system A asks it.
        own: As the benchmark asks it.
        answer: The truth; of mathematics it is delimited here.
        pictures: Encoded images, one for each ``<image>`` in the text if it has any.
        identity: The row's id.
        meta: See ``eval.tasks.kind.Problem``; what is None is left out.
    """
    asked = own if options.prompt == OWN else question
    if options.prompt == OWN:
        options = options.model_copy(update={"prompt": None})
    return gather.example(
        row,
        options,
        kind=kind,
        question=asked,
        answer=delimited(answer) if kind == "math" else answer.strip(),
        pictures=pictures,
        identity=identity,
        meta={name: value for name, value in meta.items() if value is not None},
    )


def value(row: Row, name: str) -> Any:
    """Return a column's value.

    Raises:
        ValueError: There is no such column.
    """
    if name not in row.values:
        raise ValueError(f"The row has no {name!r}. It has: {', '.join(map(str, row.values))}.")
    return row.values[name]


def text(row: Row, name: str) -> str:
    """Return a column's text; null is empty."""
    found = value(row, name)
    return "" if found is None else str(found).strip()


def answer(row: Row) -> str:
    """Return the true answer.

    Raises:
        ValueError: It is empty, or hidden as in test splits, whose answers are not public.
    """
    found = text(row, "answer")
    if not found or found == "?":
        raise ValueError(f"The answer is {found!r}. Answers of hidden test splits are not public: take another split.")
    return found


def letter(given: str, of: Sequence[str]) -> str:
    """Return a true letter.

    Raises:
        ValueError: It is no letter of an option.
    """
    found = given.strip().upper()
    if len(found) != 1 or found not in choices.letters(len(of)):
        raise ValueError(f"The answer {given!r} is no letter of {len(of)} options.")
    return found


def with_choices(question: str, of: Sequence[str]) -> str:
    """Return a question with its options as system A lists them; without options the question."""
    return f"{question}\nChoices:\n{choices.listed(of)}" if of else question


def listed_in(text: str, heading: str, mark: str) -> list[str]:
    r"""Return the options that a question lists behind a heading, ``A`` first, or nothing if they are not so listed.

    Args:
        text: The question.
        heading: A pattern; the options follow its last match.
        mark: A pattern in front of every option, with ``{letter}`` in it.

    >>> listed_in("Which?\nChoices:\nA:2 cm\nB:4 cm", r"Choices:", r"(?:^|\n)\s*{letter}\s*:")
    ['2 cm', '4 cm']
    """
    matches = list(re.finditer(heading, text))
    if not matches:
        return []
    rest, found = text[matches[-1].end() :], []
    for name in choices.LETTERS:
        parts = re.split(mark.replace("{letter}", name), rest, maxsplit=1)
        if len(parts) == 1:
            break
        if name != "A":
            found.append(parts[0])
        rest = parts[1]
    else:
        return []
    return [*found, rest] if found else []


def interleaved(text: str, row: Row, column: str) -> tuple[str, list[bytes]]:
    """Return a text whose numbered images are placeholders, and the image of each, in the order of the text.

    An image that is named twice is shown twice: a placeholder has no number. A text that names none
    shows the first in front.

    Args:
        text: With ``<image 1>`` or ``<image_1>``.
        row: With the images.
        column: Of an image, with ``{number}`` in it.

    Raises:
        ValueError: A named image is not there.
    """
    numbers = NUMBERED.findall(text)
    found = [images.found(_image(row, column.replace("{number}", number)), row.folder) for number in numbers or ["1"]]
    return NUMBERED.sub(IMAGE, text), found


def _image(row: Row, name: str) -> Any:
    found = row.values.get(name)
    if found is None:
        raise ValueError(f"The text names an image, and {name!r} is empty.")
    return found
