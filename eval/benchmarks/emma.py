"""EMMA: 2,788 problems of chemistry, coding, mathematics and physics (EMMA-mini: 400), parquet, one folder a subject.

``<image_1>`` in question and options becomes the image itself, in its place. System A publishes no
script for it; it is asked like its others.

Source:
    Hao et al., "Can MLLMs Reason in Multimodality? EMMA", 2025, with its prompt; the card of
    luckychao/EMMA on Hugging Face.
"""

from __future__ import annotations

from pathlib import Path

from eval import choices
from eval.benchmarks import reading
from jobs.data import Example
from jobs.data.rows import Row
from jobs.data.settings import Options

COLUMN = "image_{number}"
CHOOSE = (
    'Answer with the option\'s letter from the given choices and put the letter in one "\\boxed{}". \n'
    "Please solve the problem step by step."
)
SAY = (
    'Answer the question using a single word or phrase and put the answer in one "\\boxed{}". \n'
    "Please solve the problem step by step."
)


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return the problems of a file, of a subject's folder, or of all subjects."""
    return reading.load(path, "emma", options, _example, ("test-*.parquet", "*/test-*.parquet"))


def _example(row: Row, options: Options) -> Example:
    of = [str(each) for each in reading.value(row, "options") or ()]
    is_choice = bool(of) and reading.text(row, "type").casefold() != "open-ended"
    question = "\n".join(part for part in (reading.text(row, "context"), reading.text(row, "question")) if part)
    answer = reading.answer(row)
    listed = choices.listed(of, "{letter}: {text}")
    asked, pictures = reading.interleaved(reading.with_choices(question, of if is_choice else ()), row, COLUMN)
    own, _ = reading.interleaved(f"{question}\n{listed}\n{CHOOSE}" if is_choice else f"{question}\n{SAY}", row, COLUMN)
    return reading.example(
        row,
        options,
        kind="choice" if is_choice else "math",
        question=asked,
        own=own,
        answer=reading.letter(answer, of) if is_choice else answer,
        pictures=pictures,
        identity=reading.text(row, "pid"),
        meta={
            "choices": of if is_choice else None,
            "by": {
                name: reading.text(row, name)
                for name in ("subject", "task", "category", "type")
                if row.values.get(name)
            },
        },
    )
