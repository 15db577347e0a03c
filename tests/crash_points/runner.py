"""Starts a sweep in a process with the library preloaded, and shows what it found as a table."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash_points import shim
from tests.crash_points.shim import FAULTS

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 280
HEADS = {
    "KILL_BEFORE": "killed before",
    "KILL_AFTER": "killed after",
    "TEAR": "torn",
    "NO_SPACE": "disk full",
    "IO_ERROR": "I/O error",
    "POWER_LOSS": "power loss",
}


@dataclass(frozen=True, kw_only=True)
class Harm:
    """A fault after which not everything was as it has to be.

    Attributes:
        mode: Name of the fault.
        at: At which call, from 1.
        call: That call.
        what: What was wrong.
    """

    mode: str
    at: int
    call: str
    what: str

    def __str__(self) -> str:
        return f"{HEADS[self.mode]}, call {self.at} ({self.call}): {self.what}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What all faults did to one scenario.

    Attributes:
        scenario: Its name.
        calls: Every call that changes a file, in order.
        harms: The faults that did harm.
    """

    scenario: str
    calls: Sequence[str]
    harms: Sequence[Harm]

    def harmful(self, mode: str) -> int:
        """Return at how many calls a fault of that name did harm."""
        return sum(harm.mode == mode for harm in self.harms)


def run(names: Iterable[str]) -> list[Row]:
    """Return the rows of the scenarios of these names."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "tests.crash_points.sweep", str(out), *names]
        environment = shim.preload(shim.build(Path(folder)))
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=False
        )
        if ended.returncode:
            raise RuntimeError(f"the sweep ended with {ended.returncode}:\n{ended.stderr[-4000:]}")
        rows = json.loads(out.read_text(encoding="utf-8"))
    return [Row(**(row | {"harms": [Harm(**harm) for harm in row["harms"]]})) for row in rows]


def table(rows: Iterable[Row]) -> str:
    """Return a Markdown table: at how many calls each fault did harm."""
    heads = ["what is interrupted", "calls", *(HEADS[mode.name] for mode in FAULTS)]
    lines = [heads, ["---"] * len(heads)]
    lines += [[row.scenario, str(len(row.calls)), *(str(row.harmful(mode.name)) for mode in FAULTS)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
