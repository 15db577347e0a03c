"""From rows to examples: every row is tried, and all that cannot be used are listed at once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jobs.data import IMAGE, Example, images, prompts, rows, truths
from jobs.data.rows import Row, Rows
from jobs.data.settings import Options
from orchestrator.errors import InputError, Problem, all_at_once

if TYPE_CHECKING:
    from eval.target import Kind, Target

Make = Callable[[Row, Options], Example]
SHOWN = 200
"""Bad rows that an error message lists; ``problems`` has all of them."""


class BadRows(InputError):
    """Some rows of a file cannot be used.

    Attributes:
        problems: What is wrong with each.
        examples: What could be read all the same. They do not travel to another process.
    """

    def __init__(self, message: str, problems: Sequence[Problem] = (), examples: Sequence[Example] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)
        self.examples = list(examples)

    def __reduce__(self) -> tuple[type[BadRows], tuple[str, list[Problem]]]:
        return BadRows, (str(self), self.problems)


class Several(ValueError):
    """More than one thing is wrong with a row."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def load(
    path: Path, source: str, options: Options, make: Make, suffixes: Sequence[str], *, ids: bool = False
) -> list[Example]:
    """Return an example for every row of the files that ``path`` names. See ``examples``."""
    found = rows.files(path, source, suffixes)
    total: list[Row | Problem] = []
    for file, folder in zip(found, rows.folders(options.images, found), strict=True):
        total += rows.read(file, folder, options.take if len(found) == 1 else None)
    taken = total if len(found) == 1 else [total[position] for position in rows.positions(options.take, len(total))]
    return examples(path, options, taken, make, ids=ids)


def examples(path: Path, options: Options, found: Rows, make: Make, *, ids: bool = False) -> list[Example]:
    """Return what ``make`` makes of every row, resized if the options say so.

    Args:
        path: Named in errors.
        options: How to read.
        found: The rows.
        make: From a row to an example, or ValueError, or ``Several``.
        ids: A row's id must be unique. Otherwise a repeated one becomes ``<id>-2``, ``<id>-3``.

    Raises:
        BadRows: Some rows cannot be used; all of them are listed.
        InputError: There are no rows.
    """
    problems: list[Problem] = []
    made: list[Example] = []
    copies: Counter[str] = Counter()
    kept: dict[bytes, bytes] = {}
    done: images.Done = {}
    for row in found:
        if isinstance(row, Problem):
            problems.append(row)
            continue
        try:
            example = make(row, options)
            if options.resize is not None:
                example = images.resized(example, options.resize, done)
        except Several as error:
            problems += error.problems
            continue
        except ValueError as error:
            problems.append(Problem(place=row.place, fact=_sentence(error)))
            continue
        copies[example.id] += 1
        if copies[example.id] > 1:
            if ids and row.values.get("id"):
                problems.append(Problem(place=row.place, fact=f"Its id {example.id!r} is taken by an earlier row."))
            example = replace(example, id=f"{example.id}-{copies[example.id]}")
        # Many questions are about one image: it is held once.
        made.append(replace(example, images=tuple(kept.setdefault(image, image) for image in example.images)))
    if problems:
        raise bad(path, problems, made)
    if not made:
        raise InputError(f"{path}: The file has no rows.")
    return made


def bad(path: Path, problems: Sequence[Problem], made: Sequence[Example]) -> BadRows:
    """Return the error that lists problems, of very many the first ones."""
    shown = list(problems[:SHOWN])
    message = str(all_at_once(str(path), shown)).replace(f"{len(shown)} problem", f"{len(problems)} problem", 1)
    left = len(problems) - len(shown)
    return BadRows(message + (f"\n  and {left} more." if left else ""), problems, made)


def example(
    row: Row,
    options: Options,
    *,
    kind: str,
    question: str,
    answer: str,
    pictures: Sequence[bytes],
    default: str = "plain",
    names: Sequence[str] | None = None,
    target: Target | None = None,
    identity: Any = None,
    annotation: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Example:
    """Return an example.

    Args:
        row: Where it comes from.
        options: Its prompt, if there is one, takes the place of ``default``.
        kind: What the answer is.
        question: The row's, with or without placeholders of images.
        answer: As a text, delimited where that is needed.
        pictures: Encoded images.
        default: The prompt's name.
        names: What ``{names}`` in a prompt stands for.
        target: The truth in numbers.
        identity: The row's id. None names it by the sha256 of what it holds, without the prompt.
        annotation: Visual key information.
        meta: What else the source says.

    Raises:
        ValueError: Placeholders and images differ in number, or there is no such prompt.
    """
    given = () if names is None else (names,)
    problem = with_placeholders(prompts.filled(options.prompt, default, question, *given), len(pictures))
    name = str(identity) if identity not in (None, "") else digest(question, answer, annotation or "", *pictures)
    return Example(
        id=name,
        problem=problem,
        answer=answer,
        images=tuple(pictures),
        visual_key_info=annotation or None,
        kind=cast("Kind", kind),
        target=target,
        meta=dict(meta or {}),
        place=row.place,
    )


def with_placeholders(problem: str, number: int) -> str:
    """Return the problem with one placeholder for each image; if it has none, they are put in front.

    Raises:
        ValueError: It has another number of them.
    """
    there = problem.count(IMAGE)
    if there not in (0, number):
        raise ValueError(f"problem has {there} {IMAGE} for {number} image(s).")
    return problem if there else IMAGE * number + problem


def without_placeholders(text: str) -> str:
    """Return a question without the placeholders at its ends, where a prompt goes around it."""
    return text.replace(IMAGE, "").strip()


def column(row: Row, options: Options, name: str, default: str | None = None) -> Any:
    """Return the value of our column ``name``, under the name that it has in the file.

    Raises:
        ValueError: The row has no such column.
    """
    theirs = options.columns.get(name, default or name)
    if theirs not in row.values:
        raise ValueError(f"The row has no {theirs!r}. It has: {', '.join(map(str, row.values))}.")
    return row.values[theirs]


def pictures(row: Row, value: Any) -> list[bytes]:
    """Return the images of a row: one, or a list.

    Raises:
        ValueError: One is missing or no image.
    """
    several = value if isinstance(value, list | tuple) else [value]
    if not several:
        raise ValueError("images is empty.")
    return [images.found(each, row.folder) for each in several]


def words(value: Any, name: str) -> str:
    """Return a text that is not empty.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a text, got {value!r:.80}.")
    return value


def digest(*parts: str | bytes) -> str:
    """Return a short sha256 of parts, which tells ("ab", "c") from ("a", "bc")."""
    sha256 = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha256.update(len(data).to_bytes(8, "big") + data)
    return sha256.hexdigest()[:16]


def answered(kind: str, truth: Target | None, given: Any) -> str:
    """Return the answer's text: that of the target where its numbers are the truth, else what is given."""
    said = truths.answer(kind, truth) if truth is not None else ""
    return said or truths.text(kind, given)


def _sentence(error: ValueError) -> str:
    return f"{error}".rstrip(".") + "."
