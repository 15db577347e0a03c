"""The table of faults in the README, gathered while they are tried."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

FILE = Path(".pytest_cache") / "fault_table.md"


@dataclass
class FaultTable:
    """One line a fault: what happened, how long no step was committed, how many committed steps were lost."""

    lines: list[str] = field(default_factory=list)

    def add(self, fault: str, happened: str, seconds: float | None, lost: int | None) -> None:
        """Add a line; None for what does not apply."""
        shown = ["" if seconds is None else f"{seconds:.1f}", "" if lost is None else str(lost)]
        self.lines.append(f"| {fault} | {happened} | {shown[0]} | {shown[1]} |")

    def write(self) -> None:
        """Write the table where ``$FAULT_TABLE`` says, else into pytest's cache."""
        file = Path(os.environ.get("FAULT_TABLE", FILE))
        file.parent.mkdir(parents=True, exist_ok=True)
        head = "| fault | what happened | s without a step | steps lost |\n|---|---|---|---|\n"
        file.write_text(head + "\n".join(self.lines) + "\n", encoding="utf-8")
