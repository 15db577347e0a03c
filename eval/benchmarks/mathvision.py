"""MATH-Vision: ``test`` of 3,040 problems, ``testmini`` of 304, parquet.

Some questions name several images, ``<image1>``, which the file has as one picture; it is shown in
front and the names stay in the text.

Source:
    Wang et al., "Measuring Multimodal Mathematical Reasoning with MATH-Vision Dataset", NeurIPS 2024,
    with its prompt; the card of MathLLMs/MathVision on Hugging Face.
"""

from __future__ import annotations

from pathlib import Path

from eval import choices
from eval.benchmarks import reading
from jobs.data import Example, images
from jobs.data.rows import Row
from jobs.data.settings import Options

OWN_PROMPT = (
    'Please solve the problem step by step and put your answer in one "\\boxed{}". '
    'If it is a multiple choice question, only one letter is allowed in the "\\boxed{}".\n'
)


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return the problems of a parquet file, or of a folder's ``test``."""
    return reading.load(path, "mathvision", options, _example, ("test-*.parquet", "data/test-*.parquet"))


def _example(row: Row, options: Options) -> Example:
    question, answer = reading.text(row, "question"), reading.answer(row)
    of = [str(each) for each in reading.value(row, "options") or ()]
    is_choice = len(of) > 1
    own = f"{OWN_PROMPT}{question}\n{choices.listed(of, '({letter}) {text}')}" if is_choice else OWN_PROMPT + question
    return reading.example(
        row,
        options,
        kind="choice" if is_choice else "math",
        question=reading.with_choices(question, of if is_choice else ()),
        own=own,
        answer=reading.letter(answer, of) if is_choice else answer,
        pictures=[images.found(reading.value(row, "decoded_image"), row.folder)],
        identity=reading.text(row, "id"),
        meta={
            "choices": of if is_choice else None,
            "by": {name: reading.text(row, name) for name in ("subject", "level") if row.values.get(name) is not None},
        },
    )
