"""MMMU (``validation`` of 900, ``dev`` of 150) and MMMU-Pro (1,730; standard with 10 or 4 options, vision), parquet.

One folder a subject in MMMU, one a configuration in MMMU-Pro. The options are a Python list written as
a text, read as a literal. ``<image 1>`` in question and options becomes the image itself, in its place.
Open questions have one or several accepted answers; numbers are compared as numbers. The answers of
MMMU's ``test`` are not public. System A publishes no script for these; they are asked like its others.

In the ``vision`` configuration question and options stand in the picture, and only the options are in
the file, with which an answer by an option's text is understood.

Source:
    Yue et al., "MMMU", CVPR 2024, and "MMMU-Pro", 2024, with their prompts; the cards of MMMU/MMMU and
    MMMU/MMMU_Pro on Hugging Face.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from eval import choices
from eval.benchmarks import reading
from jobs.data import Example, images, literal
from jobs.data.rows import Row
from jobs.data.settings import Options

COLUMN = "image_{number}"
CHOOSE = "Answer with the option's letter from the given choices directly."
CHOOSE_PRO = "Answer with the option letter from the given choices directly."
SAY = "Answer the question using a single word or phrase."
LOOK = "Answer the multiple-choice question in the image."
LOOK_OWN = (
    f"{CHOOSE_PRO} The last line of your response should be of the following format: "
    "'Answer: $LETTER' (without quotes) where LETTER is one of options."
)
IDENTITY = re.compile(r"(?:dev|validation|test)_(.+)_\d+")
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")
"""Longer than a unit, and no command of LaTeX."""


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return the problems of a file, or ``validation`` of a subject's folder or of all subjects."""
    return reading.load(path, "mmmu", options, _example, ("validation-*.parquet", "*/validation-*.parquet"))


def load_dev(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return the problems of a file, or ``dev`` of a subject's folder or of all subjects."""
    return reading.load(path, "mmmu_dev", options, _example, ("dev-*.parquet", "*/dev-*.parquet"))


def load_pro(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return MMMU-Pro's problems of a file, or of one configuration's folder."""
    return reading.load(path, "mmmu_pro", options, _pro_example, ("test-*.parquet",))


def _example(row: Row, options: Options) -> Example:
    if reading.text(row, "question_type") == "open":
        return _open(row, options)
    of = _options(row)
    return _choice(row, options, of, f"{choices.listed(of, '({letter}) {text}')}\n\n{CHOOSE}")


def _pro_example(row: Row, options: Options) -> Example:
    of = _options(row)
    if "image" in row.values and "question" not in row.values:
        return reading.example(
            row,
            options,
            kind="choice",
            question=LOOK,
            own=LOOK_OWN,
            answer=reading.letter(reading.answer(row), of),
            pictures=[images.found(row.values["image"], row.folder)],
            identity=reading.text(row, "id"),
            meta=_meta(row, of),
        )
    return _choice(row, options, of, f"{choices.listed(of)}\n\n{CHOOSE_PRO}")


def _choice(row: Row, options: Options, of: list[str], rest: str) -> Example:
    question = reading.text(row, "question")
    asked, pictures = reading.interleaved(reading.with_choices(question, of), row, COLUMN)
    own, _ = reading.interleaved(f"{question}\n{rest}", row, COLUMN)
    return reading.example(
        row,
        options,
        kind="choice",
        question=asked,
        own=own,
        answer=reading.letter(reading.answer(row), of),
        pictures=pictures,
        identity=reading.text(row, "id"),
        meta=_meta(row, of),
    )


def _open(row: Row, options: Options) -> Example:
    asked, pictures = reading.interleaved(reading.text(row, "question"), row, COLUMN)
    accepted = _accepted(reading.answer(row))
    return reading.example(
        row,
        options,
        kind="math" if all(map(_is_mathematics, accepted)) else "text",
        question=asked,
        own=f"{asked}\n\n{SAY}",
        answer=accepted[0],
        pictures=pictures,
        identity=reading.text(row, "id"),
        meta=_meta(row, []) | {"answers": accepted if len(accepted) > 1 else None},
    )


def _options(row: Row) -> list[str]:
    found = literal.read(reading.value(row, "options"))
    if not isinstance(found, list | tuple):
        raise ValueError(f"options are a list, got {found!r:.80}.")
    return [str(each) for each in found]


def _accepted(answer: str) -> list[str]:
    """Return every accepted answer: of ``"['24', '24 cm']"`` both, of any other text itself."""
    if not answer.startswith("["):
        return [answer]
    try:
        found = literal.value(answer)
    except ValueError:
        return [answer]
    return [str(each) for each in found] if isinstance(found, list) and found else [answer]


def _is_mathematics(answer: str) -> bool:
    return re.search(r"\d", answer) is not None and WORD.search(answer) is None


def _meta(row: Row, of: list[str]) -> dict[str, Any]:
    match = IDENTITY.fullmatch(reading.text(row, "id"))
    subject = row.values.get("subject") or (match.group(1) if match else None)
    by = {"subject": subject, "topic_difficulty": row.values.get("topic_difficulty")}
    return {
        "choices": of or None,
        "subfield": row.values.get("subfield"),
        "by": {name: str(value) for name, value in by.items() if value is not None},
    }
