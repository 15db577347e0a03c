"""One evaluation's files: ``samples.jsonl``, which grows, and ``summary.json``, which is written once.

A row is one answer, known by the problem's ``id`` and ``sample``, which of its answers it is. Rows are written in the
order in which answers end; when all are there they are put in the order of the problems. An evaluation that was stopped
goes on where its samples end. It refuses to go on as another one: ``begun.json`` says with which model and settings it
was begun.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval import pass_at_k
from eval.record import Row, json_lines, number
from eval.significance import bootstrap_mean, mean, wilson
from orchestrator.errors import ConflictError
from orchestrator.files import PRIVATE_FILE, private_folder, read_json, sync_folder, write_json, write_text

NEITHER_RIGHT_NOR_WRONG = ("ocr", "detection")
"""Kinds of problem whose answers have no ``correct``."""


Key = tuple[str, int]


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
        self.done = {key(row): row for _, row in json_lines(self._path)}

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows and wait until they are on disk, so that no answer is paid for twice."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(_lines(rows))
            file.flush()
            os.fsync(file.fileno())
        self.done |= {key(row): row for row in rows}

    @property
    def summary(self) -> dict[str, Any] | None:
        """What ``finish`` wrote; None before that."""
        found = read_json(self.folder / "summary.json")
        return dict(found) if found else None

    def finish(self, keys: Iterable[Key], about: Mapping[str, Any]) -> dict[str, Any]:
        """Put the rows in the order of ``keys``, write and return the summary over them.

        Rows beyond them, which an earlier start with a higher limit has answered, stay behind.
        """
        asked = [self.done[name] for name in keys]
        rows = list(dict.fromkeys([*(key(row) for row in asked), *self.done]))
        if rows != list(self.done):
            self.done = {name: self.done[name] for name in rows}
            write_text(self._path, _lines(self.done.values()))
        summary = {**summarise(asked), **about}
        write_json(self.folder / "summary.json", summary)
        return summary

    def require(self, name: str, value: Any) -> None:
        """Note one more thing that all answers have in common.

        Raises:
            ConflictError: The answers so far have it otherwise.
        """
        path = self.folder / "begun.json"
        found = read_json(path) or {}
        if found.setdefault(name, value) != value:
            raise self._begun_otherwise([name])
        write_json(path, found)

    def _begin(self, identity: Mapping[str, Any]) -> None:
        path = self.folder / "begun.json"
        found = read_json(path)
        if found is None:
            write_json(path, dict(identity))
            return
        differing = [key for key in identity if identity[key] != found.get(key)]
        if differing:
            raise self._begun_otherwise(differing)

    def _begun_otherwise(self, differing: Sequence[str]) -> ConflictError:
        return ConflictError(
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


def key(row: Row) -> Key:
    """Return whose answer a row is, and which of several."""
    return str(row["id"]), int(row.get("sample") or 0)


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Return counts, accuracy with its interval, and the mean of every part.

    An answer that could not be checked is neither right nor wrong: it is counted in ``unchecked`` and left out of
    ``accuracy``. What cannot be known is None. The interval is Wilson's; where problems were answered several times,
    whose answers resemble each other, it is the bootstrap's over problems, and pass@k is told.
    """
    checkable = [row for row in rows if row.get("kind") not in NEITHER_RIGHT_NOR_WRONG]
    checked = [row["correct"] for row in checkable if row["correct"] is not None]
    counts = _counts(checkable)
    several = len(rows) > len({row["id"] for row in rows})
    shares = [right / answered for answered, right in counts.values()]
    interval = bootstrap_mean(shares) if several and shares else wilson(sum(checked), len(checked))
    names = list(dict.fromkeys(name for row in rows for name in row["parts"]))
    return {
        "n": len({row["id"] for row in rows}),
        "answers": len(rows),
        "correct": sum(checked),
        "unchecked": len(checkable) - len(checked),
        "accuracy": known(interval.estimate),
        "accuracy_low": round(interval.low, 6),
        "accuracy_high": round(interval.high, 6),
        "confidence": 0.95,
        "interval": "bootstrap over problems" if several and shares else "Wilson",
        "pass_at_k": _pass_at_k(counts) if several else {},
        "parts": {name: _part([number(row["parts"][name]) for row in rows if name in row["parts"]]) for name in names},
        "tokens_mean": known(mean([number(row["tokens"]) for row in rows])[0]),
        "cut_off": sum(row["finish"] == "length" for row in rows),
        "refused": sum(row["finish"] == "refused" for row in rows),
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


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows)


def _counts(rows: Iterable[Row]) -> dict[str, tuple[int, int]]:
    """Return of every problem how many of its answers were checked and how many of them are right."""
    found: dict[str, tuple[int, int]] = {}
    for row in rows:
        if row["correct"] is not None:
            answered, right = found.get(row["id"], (0, 0))
            found[row["id"]] = (answered + 1, right + row["correct"])
    return found


def _pass_at_k(counts: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, float | None]]:
    found = {k: pass_at_k.estimate(counts, k) for k in pass_at_k.steps(counts)}
    return {
        str(k): {"estimate": known(one.estimate), "low": known(one.low), "high": known(one.high)}
        for k, one in found.items()
    }
