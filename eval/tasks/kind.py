"""What a kind of task is: how one answer is measured, and what all of them together say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from eval.target import Kind, System, Target

Row = Mapping[str, Any]


class Problem(Protocol):
    """What a measurement may know of a problem. ``jobs.data.Example`` is one."""

    @property
    def id(self) -> str:
        """Unique within its file."""

    @property
    def kind(self) -> Kind:
        """What the truth is of."""

    @property
    def answer(self) -> str:
        """The ground truth as a text."""

    @property
    def target(self) -> Target | None:
        """The ground truth in numbers, where there is one."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """What the source says besides.

        Measurements know these keys: ``choices`` (texts of the options, in order), ``answers`` (all
        accepted truths, where there are several), ``precision`` (decimals of a number), ``dataset``,
        ``split`` and ``language`` (what boxes, counts and pages are reported by), ``by`` (labels to break
        accuracy down by, such as ``{"subject": "Geometry"}``), ``wemath`` (``group``, ``steps`` and
        ``step``), ``classes`` (names that may be detected), ``coco`` (``image_id``, ``areas`` of the true
        boxes, and ``crowd``, a list of ``label``, ``box`` and ``area``).
        """


class Reader(Protocol):
    """A language model that reads answers out of responses and judges them; see ``eval.extraction``."""

    async def extract(self, response: str) -> str | None:
        """Return the answer that stands in a response; None if the model could not be asked."""

    async def judge(self, answer: str, truth: str, choices: Sequence[str] = ()) -> bool | None:
        """Return whether an answer is right; None if the model could not be asked, or said neither."""

    async def close(self) -> None:
        """Close connections."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Attributes:
        faithful: Measure as the published scripts do, their faults included.
        coordinates: Units in which the model writes boxes and points.
        checker_processes: Processes that compare mathematical answers side by side.
        checker_timeout_s: Time for one comparison.
        reader: A language model that extracts and judges answers; None leaves both to rules.
    """

    faithful: bool = False
    coordinates: System = "pixel"
    checker_processes: int = 1
    checker_timeout_s: float = 5.0
    reader: Reader | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One answer.

    Attributes:
        parts: Numbers by name; NaN where one could not be found out.
        correct: Whether it counts as right; None where that is not known, or where there is no right
            and wrong (OCR, detection).
        extracted: The answer that was found in the response, as a text; None if none was.
        prediction: Boxes, points or labels that were found, as JSON; for drawing and for exports.
    """

    parts: Mapping[str, float]
    correct: bool | None
    extracted: str | None = None
    prediction: Mapping[str, Any] = field(default_factory=dict)


class Measurement(Protocol):
    """One kind of task."""

    async def measure(self, problem: Problem, response: str) -> Measured:
        """Return what one response is worth. Garbage in it is a bad answer, never an error."""

    def aggregate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return what only all answers together say, such as mAP; from rows of ``samples.jsonl``.

        A row has ``id``, ``kind``, ``answer``, ``target`` (JSON or None), ``meta``, ``response``,
        ``parts``, ``correct``, ``extracted`` and ``prediction``. The result is one entry named after
        the kind, or nothing.
        """

    async def close(self) -> None:
        """Let go of processes and connections."""
