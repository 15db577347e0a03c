"""VLMEvalKit: one table of predictions a task, ``index question answer prediction``, as its evaluation reads.

Its own files are ``<model>_<dataset>.xlsx``; it reads tab separated ones of the same columns.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from eval.exports.evaluated import Evaluated, Task, written
from eval.record import Row

KEPT = ("category", "l2-category", "split")
NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def write(found: Evaluated, out: Path, *, model: str | None = None) -> list[Path]:
    """Write every task's predictions and return the files; of several answers to a problem the first."""
    name = NOT_IN_A_NAME.sub("-", (model or found.model).strip("/").rsplit("/", 1)[-1])
    return [written(out / f"{name}_{task.name}.tsv", _table(task)) for task in found.tasks]


def _table(task: Task) -> str:
    rows = [_row(rows[0]) for rows in task.answers.values()]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _row(row: Row) -> dict[str, Any]:
    meta = row.get("meta") or {}
    kept = {name: meta[name] for name in KEPT if name in meta}
    choices = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", meta.get("choices") or (), strict=False))
    return {
        "index": meta.get("index", row["id"]),
        "question": row.get("prompt", ""),
        "answer": row.get("answer", ""),
        **choices,
        **kept,
        "prediction": row.get("response", ""),
    }
