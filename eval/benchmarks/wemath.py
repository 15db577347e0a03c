"""We-Math: ``testmini`` of 1,740 problems in 525 groups, parquet, or the JSON of its repository beside ``data/``.

Its scores over groups are in ``eval.wemath``; system A reports the plain accuracy. The options are one
text, ``A. 3 cm; B. 4 cm; C. 5 cm; D. No correct answer``.

Source:
    Qiao et al., "We-Math", ACL 2025, with its prompt; github.com/We-Math/We-Math.
"""

from __future__ import annotations

import re
from pathlib import Path

from eval.benchmarks import reading
from jobs.data import Example, images
from jobs.data.rows import Row
from jobs.data.settings import Options

KEY = re.compile(r"([23])steps_([123]|multi)")
MARK = r"(?:^|;|\s)\s*{letter}\s*[.:．]\s*"
OWN_PROMPT = (
    "Now, we require you to solve a multiple-choice math question. Please briefly describe your thought process and "
    "provide the final answer(option).\nQuestion: {question}\nOption: {option}\n"
    "Regarding the format, please answer following the template below, and be sure to include two <> symbols:\n"
    "<Thought process>: <<your thought process>>\n<Answer>: <<your option>>"
)
NUMBERS = {("2", "multi"): "two", ("3", "multi"): "three"}


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return the problems of a file, or of a folder's ``testmini``."""
    return reading.load(
        path, "wemath", options, _example, ("testmini*.parquet", "data/testmini*.parquet", "testmini.json")
    )


def _example(row: Row, options: Options) -> Example:
    question, option, key = (reading.text(row, name) for name in ("question", "option", "key"))
    match = KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"The key {key!r} is not of the form 2steps_1 or 3steps_multi.")
    steps, step = match.groups()
    of = [each.strip(" ;") for each in reading.listed_in(option, r"\A", MARK)]
    group = reading.text(row, "ID")
    return reading.example(
        row,
        options,
        kind="choice",
        question=f"{question}\nChoices:\n{option}",
        own=OWN_PROMPT.replace("{option}", option).replace("{question}", question),
        answer=reading.letter(reading.answer(row), of),
        pictures=[images.found(reading.value(row, "image_path"), row.folder)],
        identity=f"{group}/{key}",
        meta={
            "choices": of or None,
            "wemath": {"group": group, "steps": int(steps), "step": step},
            "by": {"steps": NUMBERS.get((steps, step), "one"), "knowledge": reading.text(row, "knowledge concept")},
        },
    )
