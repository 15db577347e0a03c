"""The cases that were measured on the published code, and how results are compared with them.

They are those of ``tests/cases/seed_rewards.json``, or of the file that ``REWARD_CASES`` names.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

SHIPPED = Path(__file__).parents[2] / "cases/seed_rewards.json"
GIVEN = Path(os.environ.get("REWARD_CASES", SHIPPED))
MISSING = "missing"
"""NaN, in a form that compares."""


def cases(system: str | None = None, path: Path = GIVEN) -> list[dict[str, Any]]:
    """Return the cases of one system, ``A`` or ``B``, or of both."""
    found = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return [case for case in found if system in (None, case["system"])]


def assert_sane(actual: Any) -> None:
    """Every number, at any depth, is finite, ``MISSING``, or None for "there is none"."""
    if isinstance(actual, dict | list):
        for value in actual.values() if isinstance(actual, dict) else actual:
            assert_sane(value)
    else:
        assert actual is None or actual == MISSING or math.isfinite(actual) or math.isnan(actual)


def assert_equal(actual: Any, expected: Any, tolerance: float) -> None:
    """Compare numbers to a tolerance, at any depth; NaN is ``MISSING``."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name in expected:
            assert_equal(actual[name], expected[name], tolerance)
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_equal(one, other, tolerance)
    elif expected is None:
        assert actual is None
    elif expected == MISSING:
        assert actual == MISSING or math.isnan(actual)
    else:
        assert actual == pytest.approx(expected, abs=tolerance, rel=0)
