"""MMStar: 1,500 problems, one parquet file. The options stand in the question: ``Options: A: .., B: ..``.

System A publishes no script for it; the question is asked as it is, in both prompts.

Source:
    Chen et al., "Are We on the Right Way for Evaluating Large Vision-Language Models?", NeurIPS 2024;
    the card of Lin-Chen/MMStar on Hugging Face.
"""

from __future__ import annotations

from pathlib import Path

from eval.benchmarks import reading
from jobs.data import Example, images
from jobs.data.rows import Row
from jobs.data.settings import Options

HEADING = r"(?i)(?:options|choices)\s*:"
MARK = r"(?:^|[,\n]|\A)\s*\(?{letter}\s*[:.)]\s*"


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return the problems of a parquet file, or of a folder's ``mmstar.parquet``."""
    return reading.load(path, "mmstar", options, _example, ("mmstar.parquet", "*.parquet"))


def _example(row: Row, options: Options) -> Example:
    question = reading.text(row, "question")
    of = [each.strip().rstrip(",") for each in reading.listed_in(question, HEADING, MARK)]
    return reading.example(
        row,
        options,
        kind="choice",
        question=question,
        own=question,
        answer=reading.letter(reading.answer(row), of),
        pictures=[images.found(reading.value(row, "image"), row.folder)],
        identity=reading.text(row, "index"),
        meta={
            "choices": of or None,
            "by": {name: reading.text(row, name) for name in ("category", "l2_category") if row.values.get(name)},
        },
    )
