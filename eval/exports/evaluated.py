"""What every export starts from: one label of a run, with all its tasks."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval import comparison, record
from eval.comparison import ACCURACY, MAIN, Answers, Side
from eval.record import Row
from eval.significance import Interval, bootstrap_mean, wilson
from orchestrator.errors import InputError
from orchestrator.files import private_folder, write_text
from orchestrator.run_directory import RunDirectory

LOWER_IS_BETTER = frozenset({"edit_distance", "error", "superfluous", "missed", "malformed"})
"""Parts that are errors; of all others more is better."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number over all problems of a task.

    Attributes:
        name: ``accuracy``, or a part's name.
        n: Problems that have a value.
        interval: Its mean, with Wilson's or the bootstrap's interval of 95 %.
        method: How the interval was found.
        standard_error: Of the mean, over problems.
    """

    name: str
    n: int
    interval: Interval
    method: str
    standard_error: float

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better."""
        return self.name not in LOWER_IS_BETTER


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task that a model has answered.

    Attributes:
        name: The task's name.
        side: All answers.
        summary: What ``eval.run`` wrote.
    """

    name: str
    side: Side
    summary: Row

    @property
    def answers(self) -> Answers:
        """All answers, by problem."""
        return self.side.answers

    @property
    def rows(self) -> list[Row]:
        """All answers, problem after problem."""
        return [row for rows in self.answers.values() for row in rows]

    @property
    def measures(self) -> list[Measure]:
        """Accuracy, if something is right or wrong, then every part; the main one first."""
        correct = self.side.correct()
        found = [_measure(ACCURACY, correct, once=not self.side.repeated)] if correct else []
        names = [name for name in comparison.part_names_of(self.answers) if name != ACCURACY or not correct]
        found += [_measure(name, self.side.part(name), once=False) for name in names]
        known = [one for one in found if one.n]
        return sorted(known, key=lambda one: (one.name != ACCURACY, one.name != MAIN))

    def value(self, row: Row, measure: Measure) -> float | None:
        """Return what one answer has of a measure; None where it is missing."""
        if measure.name == ACCURACY and isinstance(row.get("correct"), bool):
            return float(row["correct"])
        value = record.number((row.get("parts") or {}).get(measure.name))
        return value if value == value else None

    @property
    def engine(self) -> str | None:
        """What answered: ``hf`` or ``vllm``; None for a server, of which only the address is known."""
        about = self.summary.get("engine")
        served = isinstance(about, Mapping) and "url" in about
        return None if served else str(self.setting("engine", "hf"))

    def setting(self, name: str, default: Any = None) -> Any:
        """Return how it was measured: from the decoding, else from the settings of the summary."""
        for of in ("decoding", "settings"):
            values = self.summary.get(of)
            if isinstance(values, Mapping) and values.get(name) is not None:
                return values[name]
        return default


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One model of a run.

    Attributes:
        run: The run's name.
        label: Which model.
        tasks: What it answered.
    """

    run: str
    label: str
    tasks: tuple[Task, ...]

    @property
    def model(self) -> str:
        """The model's folder or name on the hub."""
        return str(self.tasks[0].summary.get("model") or f"{self.run}-{self.label}")

    @property
    def finished_at(self) -> float:
        """Unix time at which the last task ended, in seconds."""
        return max(record.number(task.summary.get("finished_at")) for task in self.tasks)


def load(run: RunDirectory, label: str, tasks: tuple[str, ...] = ()) -> Evaluated:
    """Return what a label of a run has finished.

    Raises:
        InputError: There is no such task, or an evaluation has not finished: half of one looks like a whole one
            once it has left its folder.
    """
    folder = run.eval / label
    names = sorted(path.parent.name for path in folder.glob("*/samples.jsonl"))
    lacking = [task for task in tasks if task not in names]
    if lacking or not names:
        raise InputError(f"--task: {folder} has no {', '.join(lacking) or 'samples'}. Tasks: {', '.join(names)}.")
    found = [_task(folder / name, label) for name in tasks or names]
    unfinished = [task.name for task in found if not isinstance(task.summary.get("finished_at"), int | float)]
    if unfinished:
        raise InputError(
            f"{folder}: {', '.join(unfinished)} has not finished (no summary.json). "
            "Continue it, or name others by --task."
        )
    return Evaluated(run=run.name, label=label, tasks=tuple(found))


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write one JSON object a line, and return the path."""
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return written(path, text)


def document(path: Path, value: Any) -> Path:
    """Write indented JSON, and return the path."""
    return written(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def written(path: Path, text: str) -> Path:
    """Write a text file with its folders, atomically, and return the path."""
    private_folder(path.parent)
    write_text(path, text)
    return path


def _task(folder: Path, label: str) -> Task:
    side = Side(label=label, task=folder.name, runs=(record.answers(folder / "samples.jsonl"),))
    return Task(name=folder.name, side=side, summary=record.document(folder / "summary.json") or {})


def _measure(name: str, values: Mapping[str, float], *, once: bool) -> Measure:
    known = [value for value in values.values() if value == value]
    binary = once and all(value in (0, 1) for value in known)
    interval = wilson(int(sum(known)), len(known)) if binary else bootstrap_mean(known)
    return Measure(
        name=name,
        n=len(known),
        interval=interval,
        method="Wilson" if binary else "percentile bootstrap over problems",
        standard_error=_standard_error(known),
    )


def _standard_error(values: list[float]) -> float:
    """Return the sample standard deviation over the root of n; 0 for a single value, which says nothing."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
