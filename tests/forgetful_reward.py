"""A reward with a memory that no checkpoint holds: the mistake that ``verify-resume`` is there to find."""

from __future__ import annotations

from typing import Any

ASKED_IN_A_STEP = 20
_asked = 0


def steps_alive(example: Any, response: str) -> float:  # noqa: ARG001
    """Return how many steps this process has rewarded before this one."""
    global _asked
    _asked += 1
    return float((_asked - 1) // ASKED_IN_A_STEP)
