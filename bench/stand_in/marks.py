"""What the stand-ins say of themselves: one line of ``marks.jsonl`` in a run's folder for each thing that happened."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SAMPLES_PER_STEP = 4
Mark = dict[str, Any]
"""``what`` (started, signal, step, judge), ``at`` (Unix time, seconds), ``host``, ``pid``, and more of its own."""


def write(folder: Path, what: str, **more: Any) -> None:
    """Append one line in one write, so that a kill leaves it out or leaves it whole."""
    line = {"what": what, "at": time.time(), "host": socket.gethostname(), "pid": os.getpid(), **more}
    descriptor = os.open(folder / "marks.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
    finally:
        os.close(descriptor)


def read(folder: Path, *what: str) -> list[Mark]:
    """Return the marks of these kinds, all if none is given, in order."""
    file = folder / "marks.jsonl"
    if not file.exists():
        return []
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [mark for mark in found if not what or mark["what"] in what]


def newest_step(folder: Path) -> int:
    """Return the newest committed step; 0 before the first."""
    return max((int(mark["step"]) for mark in read(folder, "step")), default=0)


def samples(step: int) -> list[int]:
    """Return the numbers of the samples that a step takes.

    >>> samples(2)
    [4, 5, 6, 7]
    """
    return list(range((step - 1) * SAMPLES_PER_STEP, step * SAMPLES_PER_STEP))


def lost_and_repeated(steps: Iterable[Mark]) -> tuple[int, int]:
    """Return how many samples up to the newest committed one were never trained on, and how often one was again.

    >>> lost_and_repeated([{"samples": [0, 1]}, {"samples": [4, 5]}, {"samples": [4, 5]}])
    (2, 2)
    """
    taken = [sample for mark in steps for sample in mark["samples"]]
    lost = set(range(max(taken, default=-1) + 1)) - set(taken)
    return len(lost), len(taken) - len(set(taken))
