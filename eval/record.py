"""What a run left behind, read as it is: half-written, resumed, stopped early, or complete.

Nothing here fails because a file is not there yet; whoever shows the record says what is missing.
A line that was cut short by a crash is left out. After a resume a step is in the logs twice, and
the later line holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.files import read_json
from orchestrator.run_directory import RunDirectory

Row = Mapping[str, Any]
FIRST = "before"


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The trainer's steps.

    Attributes:
        rows: The line that holds of every step, in the order of steps.
        redone: Lines that a later one of the same step replaced: work that a restart repeated.
    """

    rows: tuple[Row, ...] = ()
    redone: tuple[Row, ...] = ()

    def values(self, name: str) -> list[tuple[int, float]]:
        """Return ``(step, value)`` wherever the value is there and finite."""
        pairs = ((int(row["step"]), number(row.get(name))) for row in self.rows)
        return [(step, value) for step, value in pairs if math.isfinite(value)]

    def total(self, name: str) -> float:
        """Return the sum over all steps that hold; missing values add nothing."""
        return math.fsum(value for _, value in self.values(name))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model on one task.

    Attributes:
        label: ``"before"``, ``"after"``.
        task: The task's name.
        summary: What ``eval.run`` wrote when it was done; empty while it is not.
        samples: The first answer to every answered problem, by id.
        answers: All its answers.
    """

    label: str
    task: str
    summary: Row = field(default_factory=dict)
    samples: Mapping[str, Row] = field(default_factory=dict)
    answers: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)

    def part(self, name: str) -> dict[str, float]:
        """Return one part of the score of every problem to which it applies; NaN where it is missing."""
        parts = {key: sample.get("parts") or {} for key, sample in self.samples.items()}
        return {key: number(values[name]) for key, values in parts.items() if name in values}

    def correct(self) -> dict[str, bool]:
        """Return whether each problem was solved; problems that could not be checked are left out."""
        known = ((key, sample.get("correct")) for key, sample in self.samples.items())
        return {key: value for key, value in known if isinstance(value, bool)}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A committed checkpoint.

    Attributes:
        step: Steps it holds.
        at: Unix time of its manifest, seconds.
        size_bytes: Sum of its files.
    """

    step: int
    at: float
    size_bytes: int


def json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the position in bytes and the content of every whole line; an absent file has none."""
    if not path.exists():
        return
    position = 0
    with path.open("rb") as file:
        for line in file:
            row = _row(line)
            if row is not None:
                yield position, row
            position += len(line)


def row_at(path: Path, positions: Sequence[int]) -> list[Row]:
    """Return the lines that begin at these positions, which ``json_lines`` gave."""
    rows = []
    with path.open("rb") as file:
        for position in positions:
            file.seek(position)
            rows.append(json.loads(file.readline()))
    return rows


def steps(run: RunDirectory) -> Steps:
    """Return the trainer's metrics."""
    latest: dict[int, Row] = {}
    redone: list[Row] = []
    for _, row in json_lines(run.metrics):
        if not isinstance(row.get("step"), int):
            continue
        if row["step"] in latest:
            redone.append(latest[row["step"]])
        latest[row["step"]] = row
    return Steps(rows=tuple(latest[step] for step in sorted(latest)), redone=tuple(redone))


def evaluations(run: RunDirectory) -> list[Evaluation]:
    """Return every evaluation that has begun, by task, and of each task ``before`` first."""
    found = [_evaluation(path.parent) for path in sorted(run.eval.glob("*/*/samples.jsonl"))]
    return sorted(found, key=lambda e: (e.task, e.label != FIRST, e.label))


def answers(path: Path) -> dict[str, tuple[Row, ...]]:
    """Return all answers to every problem of a ``samples.jsonl``, in the order of samples.

    One that was written twice, as after a restart, holds as it was written last.
    """
    latest: dict[str, dict[int, Row]] = {}
    for _, row in json_lines(path):
        if "id" in row:
            latest.setdefault(str(row["id"]), {})[int(row.get("sample") or 0)] = row
    return {key: tuple(of[place] for place in sorted(of)) for key, of in latest.items()}


def checkpoints(run: RunDirectory) -> list[Checkpoint]:
    """Return the committed checkpoints, oldest first. One without a manifest does not exist."""
    manifests = sorted(run.checkpoints.glob("step_*/MANIFEST.json"))
    return [_checkpoint(path) for path in manifests if path.parent.name.removeprefix("step_").isdigit()]


def document(path: Path) -> Any | None:
    """Return the JSON in ``path``; None if it is not there or damaged."""
    try:
        return read_json(path)
    except ValueError:
        return None


def plan(run: RunDirectory) -> Row:
    """Return the plan as written, whatever its schema; empty if there is none."""
    found = document(run.plan)
    return found if isinstance(found, dict) else {}


def judge_quality(run: RunDirectory) -> Row:
    """Return what was measured of the judge on held-out cases, or nothing.

    A role that makes a judge stores ``judge.json`` in the judge's folder, or names such a file in
    its outputs.
    """
    for outputs in sorted(run.outputs.glob("[!.]*.json")):
        values = document(outputs)
        for value in values.values() if isinstance(values, dict) else ():
            path = Path(str(value))
            file = path / "judge.json" if path.is_dir() else path
            found = document(file) if file.suffix == ".json" else None
            if isinstance(found, dict) and "balanced_accuracy" in found:
                return found
    return {}


def number(value: Any) -> float:
    """Return a number of JSON; anything else, null included, is NaN."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:  # cut short by a crash: what it announced was never acknowledged
        return None
    return row if isinstance(row, dict) else None


def _evaluation(folder: Path) -> Evaluation:
    found = answers(folder / "samples.jsonl")
    return Evaluation(
        label=folder.parent.name,
        task=folder.name,
        summary=document(folder / "summary.json") or {},
        samples={key: rows[0] for key, rows in found.items()},
        answers=found,
    )


def _checkpoint(manifest: Path) -> Checkpoint:
    files = [path for path in manifest.parent.rglob("*") if path.is_file()]
    return Checkpoint(
        step=int(manifest.parent.name.removeprefix("step_")),
        at=manifest.stat().st_mtime,
        size_bytes=sum(path.stat().st_size for path in files),
    )
