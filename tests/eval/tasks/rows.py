"""Rows of samples.jsonl, made of a measurement as an evaluation makes them: through JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from eval.tasks import Measured
from jobs.data import Example


def row_of(problem: Example, response: str, found: Measured) -> dict[str, Any]:
    """Return the row of one answer."""
    row = {
        "id": problem.id,
        "kind": problem.kind,
        "answer": problem.answer,
        "target": None if problem.target is None else problem.target.to_json(),
        "meta": dict(problem.meta),
        "response": response,
        "parts": {name: value if math.isfinite(value) else None for name, value in found.parts.items()},
        "correct": found.correct,
        "extracted": found.extracted,
        "prediction": dict(found.prediction),
    }
    copy: dict[str, Any] = json.loads(json.dumps(row, allow_nan=False))
    return copy
