"""What is measured of an answer, by the kind of the problem: one file a kind, one line in ``KINDS``.

A file of problems may mix kinds, as MMMU mixes choices with open questions; ``AnyKind`` sends each
problem to its own measurement. Pure but for the answer checker and the reader: nothing here knows a
model, a run or a report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eval.tasks import breakdown, choice, counting, detection, grounding, maths, ocr, plain_text
from eval.tasks.kind import Measured, Measurement, Options, Problem, Reader, Row

__all__ = ["KINDS", "AnyKind", "Measured", "Measurement", "Options", "Problem", "Reader", "build"]

KINDS: dict[str, Callable[[Options], Measurement]] = {
    "math": maths.Maths,
    "choice": choice.Choice,
    "text": plain_text.PlainText,
    "grounding": grounding.Grounding,
    "counting": counting.Counting,
    "ocr": ocr.Ocr,
    "detection": detection.Detection,
}


def build(kind: str, options: Options) -> Measurement:
    """Return the measurement of one kind of problem.

    Raises:
        ValueError: There is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"There is no kind of problem {kind!r}. Known: {', '.join(KINDS)}.")
    return KINDS[kind](options)


class AnyKind:
    """Measures problems of any kinds; each kind is built when its first problem comes."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._built: dict[str, Measurement] = {}

    async def measure(self, problem: Problem, response: str) -> Measured:
        """Return what one response is worth."""
        return await self._of(problem.kind).measure(problem, response)

    def aggregate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return what the rows of each kind say together, and accuracy by the labels in ``meta["by"]``."""
        kinds = list(dict.fromkeys(str(row.get("kind") or "math") for row in rows))
        found: dict[str, Any] = {}
        for kind in kinds:
            found |= self._of(kind).aggregate([row for row in rows if (row.get("kind") or "math") == kind])
        return found | breakdown.accuracy_by(rows)

    async def close(self) -> None:
        """Let go of processes and connections; the reader belongs to whoever made it."""
        for measurement in self._built.values():
            await measurement.close()

    def _of(self, kind: str) -> Measurement:
        if kind not in self._built:
            self._built[kind] = build(kind, self._options)
        return self._built[kind]
