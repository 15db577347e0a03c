"""RefCOCO, RefCOCO+ and RefCOCOg as PR1 evaluates them.

Rows are ``{image, problem, solution, normalized_solution}``, in eight files:
``{refcoco,refcocop}_{val,testA,testB}.json`` and ``refcocog_{val,test}.json``; a folder means all that are there.
Other RefCOCO files give other numbers: PR1's issue #27 has 68.55 instead of 88.67 at IoU 0.5.
"""

from __future__ import annotations

from pathlib import Path

from jobs.data import Example, gather, pr1, rows
from jobs.data.rows import Row
from jobs.data.settings import HOW_TO_GET, Options
from orchestrator.errors import NotFound

FILES = (
    *(f"{name}_{split}.json" for name in ("refcoco", "refcocop") for split in ("val", "testA", "testB")),
    *(f"refcocog_{split}.json" for split in ("val", "test")),
)


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return the rows of one file, or of a folder's. ``meta`` says of which data set and split they are."""
    if not path.is_dir():
        return gather.load(path, "refcoco", options, _example, [".json"])
    found = [path / name for name in FILES if (path / name).is_file()]
    if not found:
        raise NotFound(f"{path}: none of {', '.join(FILES)} is there. {HOW_TO_GET['refcoco']}")
    folders = rows.folders(options.images, found)
    total = [row for file, folder in zip(found, folders, strict=True) for row in rows.read(file, folder)]
    taken = [total[position] for position in rows.positions(options.take, len(total))]
    return gather.examples(path, options, taken, _example)


def _example(row: Row, options: Options) -> Example:
    data_set, _, split = row.file.partition("_")
    return pr1.grounding(row, options, {"dataset": data_set, "split": split} if f"{row.file}.json" in FILES else None)
