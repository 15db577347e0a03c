"""MathVerse: ``testmini`` of 788 problems in five versions each, parquet, or JSON beside a folder of images.

The versions move information from the text into the picture; in ``Vision Only`` the question is in
the picture too, and the text is empty. The mean over versions is the plain accuracy, as all have as
many problems. ``prompt: own`` is the data set's ``query_wo`` (answer directly); ``prompt: own_cot`` its
``query_cot`` (reason first).

Source:
    Zhang et al., "MathVerse", ECCV 2024; the card of AI4Math/MathVerse on Hugging Face.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval.benchmarks import OWN, reading
from jobs.data import Example, images
from jobs.data.rows import Row
from jobs.data.settings import Options

OWN_COT = "own_cot"
HEADING = r"(?i)choices?\s*:"
MARK = r"(?:^|\n)\s*\(?{letter}\s*[:.)]\s*"


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return the problems of a file, or of a folder's ``testmini``."""
    return reading.load(path, "mathverse", options, _example, ("testmini.parquet", "testmini.json"))


def _example(row: Row, options: Options) -> Example:
    is_choice = reading.text(row, "question_type") == "multi-choice"
    full = reading.text(row, "question_for_eval")
    of = [each.strip() for each in reading.listed_in(full, HEADING, MARK)] if is_choice else []
    answer = reading.answer(row)
    about: dict[str, Any] = row.values.get("metadata") or {}
    own = "query_cot" if options.prompt == OWN_COT else "query_wo"
    if options.prompt == OWN_COT:
        options = options.model_copy(update={"prompt": OWN})
    return reading.example(
        row,
        options,
        kind="choice" if is_choice else "math",
        question=reading.text(row, "question"),
        own=reading.text(row, own),
        answer=reading.letter(answer, of) if is_choice else answer,
        pictures=[images.found(reading.value(row, "image"), row.folder)],
        identity=reading.text(row, "sample_index"),
        meta={
            "choices": of or None,
            "problem_index": row.values.get("problem_index"),
            "question": full,
            "by": {
                "problem_version": reading.text(row, "problem_version"),
                "question_type": reading.text(row, "question_type"),
                **{name: about[name] for name in ("subject", "subfield") if about.get(name)},
            },
        },
    )
