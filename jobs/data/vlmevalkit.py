"""VLMEvalKit's TSV: ``index, image, question, hint, A, B, ..., answer, category, l2-category, split``.

``image`` is base64, or a list of such, or, where several rows share an image, the index of the row
that has it; ``image_path`` is used where there is none. Options make it a question of choice, its
answer a letter; without options it is ``kind``, mathematics if nothing is said. Rows without an answer
(MMBench's test split) are errors: there is nothing to measure with.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.choices import LETTERS, listed
from jobs.data import Example, gather, images, literal, rows, truths
from jobs.data.rows import Row
from jobs.data.settings import Options
from orchestrator.errors import Problem

SHORTEST = 64
"""An image has more characters than this; less is the index of another row."""
KEPT = ("category", "l2-category", "split", "difficulty", "topic_difficulty", "subfield")


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return every row of a file. See ``jobs.data.gather.load`` for what is raised."""
    [file] = rows.files(path, "vlmevalkit", [".tsv"])[:1]
    [folder] = rows.folders(options.images, [file])
    found = rows.read(file, folder)
    encoded = {row.values.get("index"): row.values.get("image") or "" for row in found if not isinstance(row, Problem)}
    taken = [found[position] for position in rows.positions(options.take, len(found))]
    return gather.examples(path, options, taken, lambda row, chosen: _example(row, chosen, encoded))


def _example(row: Row, options: Options, encoded: Mapping[Any, str]) -> Example:
    values = {
        key: value.strip()
        for key, value in row.values.items()
        if isinstance(value, str) and value.strip() not in ("", "nan")
    }
    choices = _choices(values)
    kind = options.kind or ("choice" if choices else "math")
    answer = gather.words(values.get(options.columns.get("answer", "answer")), "answer")
    if kind == "choice" and choices and answer not in LETTERS[: len(choices)]:
        raise ValueError(f"answer is one of {', '.join(LETTERS[: len(choices)])}, got {answer!r:.80}.")
    question = gather.words(values.get(options.columns.get("problem", "question")), "question")
    # MMMU's questions have their own marks for images, in the order of the images.
    hint = f"{values['hint']}\n" if "hint" in values else ""
    asked = f"{hint}{question}" + (f"\nChoices:\n{listed(choices)}" if choices else "")
    return gather.example(
        row,
        options,
        kind=kind,
        question=asked,
        answer=truths.text(kind, answer),
        pictures=_images(row, values, encoded),
        identity=values.get("index"),
        meta={
            **({"choices": choices} if choices else {}),
            "by": {key: values[key] for key in KEPT if key in values},
        },
    )


def _choices(values: Mapping[str, str]) -> list[str]:
    """Return the texts of the options up to the first letter without one."""
    found: list[str] = []
    for letter in LETTERS:
        if letter not in values:
            break
        found.append(values[letter])
    return found


def _images(row: Row, values: Mapping[str, str], encoded: Mapping[Any, str]) -> list[bytes]:
    given = values.get("image", "")
    if given and len(given) <= SHORTEST and not given.startswith("["):
        if given not in encoded or len(encoded[given]) <= SHORTEST:
            raise ValueError(f"image names the row {given!r}, which has no image.")
        given = encoded[given]
    if not given and "image_path" not in values:
        raise ValueError("The row has neither 'image' nor 'image_path'.")
    parts = _parts(given or values["image_path"])
    return [images.found(_decoded(part) if given else part, row.folder) for part in parts]


def _parts(text: str) -> list[str]:
    parts = literal.read(text) if text.startswith("[") else [text]
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"Images are a text or a list of texts, got {text!r:.80}.")
    return parts


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"image is not base64: {error}.") from None
