"""One evaluation's files: ``samples.jsonl``, which grows, and ``summary.json``, which is written once.

An evaluation that was stopped goes on where its samples end. It refuses to go on as another one:
``begun.json`` says with which model and settings it was begun.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.record import Row, json_lines, number
from eval.significance import mean, wilson
from orchestrator.errors import ConflictError
from orchestrator.files import PRIVATE_FILE, private_folder, read_json, sync_folder, write_json


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model wrote.

    Attributes:
        text: Without special tokens.
        tokens: How many were generated, the end token included.
        finished: Whether the model ended it; otherwise it was cut at the longest length.
        batch_s: Seconds that its whole batch took.
    """

    text: str
    tokens: int
    finished: bool
    batch_s: float


class Samples:
    """The answered problems of one model on one task.

    Raises:
        ConflictError: The folder holds an evaluation of another model or with other settings.
    """

    def __init__(self, folder: Path, *, identity: Mapping[str, Any]) -> None:
        self.folder = private_folder(folder)
        self._path = folder / "samples.jsonl"
        self._begin(identity)
        self._cut_torn_line()
        self.done = {str(row["id"]): row for _, row in json_lines(self._path)}

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows and wait until they are on disk, so that no answer is paid for twice."""
        text = "".join(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.done |= {str(row["id"]): row for row in rows}

    @property
    def summary(self) -> dict[str, Any] | None:
        """What ``finish`` wrote; None before that."""
        found = read_json(self.folder / "summary.json")
        return dict(found) if found else None

    def finish(self, ids: Iterable[str], about: Mapping[str, Any]) -> dict[str, Any]:
        """Write and return the summary over the problems ``ids``."""
        rows = [self.done[key] for key in ids]
        summary = {**summarise(rows), **about}
        write_json(self.folder / "summary.json", summary)
        return summary

    def _begin(self, identity: Mapping[str, Any]) -> None:
        path = self.folder / "begun.json"
        found = read_json(path)
        if found is None:
            write_json(path, dict(identity))
            return
        differing = [key for key in sorted(identity.keys() | found.keys()) if identity.get(key) != found.get(key)]
        if differing:
            raise ConflictError(
                f"{self.folder}: This evaluation was begun with another {', '.join(differing)}. "
                "Move the folder away to begin anew, or evaluate under another label."
            )

    def _cut_torn_line(self) -> None:
        if not self._path.exists():
            self._path.touch(mode=PRIVATE_FILE)
            sync_folder(self.folder)
        text = self._path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.truncate(self._path, whole)


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Return counts, accuracy with Wilson's interval, and the mean of every part.

    A problem whose answer could not be checked is neither right nor wrong: it is counted in
    ``unchecked`` and left out of ``accuracy``. What cannot be known is None.
    """
    checked = [row["correct"] for row in rows if row["correct"] is not None]
    interval = wilson(sum(checked), len(checked))
    names = list(dict.fromkeys(name for row in rows for name in row["parts"]))
    return {
        "n": len(rows),
        "correct": sum(checked),
        "unchecked": len(rows) - len(checked),
        "accuracy": known(interval.estimate),
        "accuracy_low": round(interval.low, 6),
        "accuracy_high": round(interval.high, 6),
        "confidence": 0.95,
        "parts": {name: _part([number(row["parts"][name]) for row in rows if name in row["parts"]]) for name in names},
        "tokens_mean": known(mean([number(row["tokens"]) for row in rows])[0]),
        "cut_off": sum(row["finish"] == "length" for row in rows),
    }


def fingerprint(value: Any) -> str:
    """Return the sha256 of JSON-like settings."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def known(value: float) -> float | None:
    """Return the number, or None for NaN, which JSON does not have."""
    return round(value, 6) if math.isfinite(value) else None


def _part(values: Sequence[float]) -> dict[str, Any]:
    average, valid = mean(values)
    return {"mean": known(average), "n": valid, "missing": len(values) - valid}
