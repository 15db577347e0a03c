"""MathVista: ``testmini`` of 1,000 problems, parquet. The answers of ``test`` are not public.

System A asks the data set's ``query``, in which the options already stand, and appends its format
prompt. A free-form answer is rounded to the decimals that the problem asks for, see ``eval.tasks.maths``.

Source:
    Lu et al., "MathVista", ICLR 2024; the card of AI4Math/MathVista on Hugging Face.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval import choices
from eval.benchmarks import reading
from jobs.data import Example, images
from jobs.data.rows import Row
from jobs.data.settings import Options


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return the problems of a parquet file, or of a folder's ``testmini``."""
    return reading.load(path, "mathvista", options, _example, ("testmini-*.parquet", "data/testmini-*.parquet"))


def _example(row: Row, options: Options) -> Example:
    query, answer = reading.text(row, "query"), reading.answer(row)
    is_choice = reading.text(row, "question_type") == "multi_choice"
    of = [str(each) for each in row.values.get("choices") or ()]
    about: dict[str, Any] = row.values.get("metadata") or {}
    answer_type = reading.text(row, "answer_type")
    return reading.example(
        row,
        options,
        kind="choice" if is_choice else "math",
        question=query,
        own=query,
        answer=_letter(answer, of) if is_choice else answer,
        pictures=[images.found(reading.value(row, "decoded_image"), row.folder)],
        identity=reading.text(row, "pid"),
        meta={
            "choices": of or None,
            "precision": None if is_choice else _precision(row, answer_type),
            "unit": row.values.get("unit"),
            "answer_type": answer_type,
            "by": {
                "question_type": reading.text(row, "question_type"),
                "answer_type": answer_type,
                **{name: about[name] for name in ("task", "skills", "category", "source") if about.get(name)},
            },
        },
    )


def _precision(row: Row, answer_type: str) -> int | None:
    if answer_type == "integer":
        return 0
    decimals = row.values.get("precision")
    return None if decimals is None or answer_type != "float" else int(decimals)


def _letter(answer: str, of: list[str]) -> str:
    """Return the letter of the true option, which the file names by its text."""
    stripped = [each.strip() for each in of]
    if answer not in stripped:
        raise ValueError(f"The answer {answer!r} is none of the choices {of!r:.120}.")
    return choices.LETTERS[stripped.index(answer)]
