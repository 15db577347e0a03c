"""VLM-R1's JSONL: ``{"id", "image": path or [paths], "conversations": [{"from", "value"}, ...]}``.

The first turn asks, the second answers. Several files are joined by ``:``, and so are their image
folders. An answer of four numbers is a box, in pixels of the stored image unless ``coordinates``
says otherwise; ``accu_reward_method`` of a row says whether another is a letter or mathematics.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jobs.data import Example, gather, images, literal, truths
from jobs.data.rows import Row
from jobs.data.settings import Options

TAGS = re.compile(r"</?answer>")
KINDS = {"mcq": "choice", "math": "math", "yes_no": "text", "llm": "text"}


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return every line of one or several files. See ``jobs.data.gather.load`` for what is raised."""
    return gather.load(path, "vlm_r1", options, example, [".jsonl", ".json"])


def example(row: Row, options: Options) -> Example:
    """Return the example of a row.

    Raises:
        ValueError: The row cannot be used.
    """
    question, given = exchange(gather.column(row, options, "problem", "conversations"))
    if isinstance(given, str):
        given = TAGS.sub("", given).strip()
    pictures = gather.pictures(row, gather.column(row, options, "images", "image"))
    kind = options.kind or _kind(row, given)
    truth = None
    if kind == "grounding":
        system = options.coordinates or "pixel"
        truth = truths.target(kind, system=system, size_px=images.size(pictures[0]), boxes=[literal.box(given)])
    return gather.example(
        row,
        options,
        kind=kind,
        question=gather.without_placeholders(question) if options.prompt else question,
        answer=gather.answered(kind, truth, given),
        pictures=pictures,
        target=truth,
        identity=row.values.get("id"),
    )


def exchange(turns: Any) -> tuple[str, Any]:
    """Return what is asked and what is answered in a conversation of two turns.

    Raises:
        ValueError: It is no such conversation.
    """
    if (
        not isinstance(turns, list)
        or len(turns) != 2
        or not all(isinstance(turn, dict) and "value" in turn for turn in turns)
    ):
        raise ValueError(f"conversations has two turns with 'from' and 'value', got {turns!r:.120}.")
    return gather.words(turns[0]["value"], "conversations[0].value"), turns[1]["value"]


def _kind(row: Row, given: Any) -> str:
    try:
        literal.box(given)
    except ValueError:
        return KINDS.get(str(row.values.get("accu_reward_method")), "math")
    return "grounding"
