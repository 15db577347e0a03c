"""Puts the table that ``tests/test_slurm_faults.py`` has gathered into the README, between its markers.

python -m pytest tests/test_slurm_faults.py && python -m bench.fault_table
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.fault_table import FILE

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- faults -->\n", "<!-- /faults -->"


def put(text: str, table: str) -> str:
    """Return the text with the table between its markers.

    Raises:
        ValueError: The text has no such markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md: no lines {BEGIN.strip()} and {END}. Write them where the table is to stand.")
    return f"{before}{BEGIN}{table.rstrip()}\n{END}{after}"


def main() -> int:
    """Rewrite the README."""
    file = Path(os.environ.get("FAULT_TABLE", FILE))
    if not file.exists():
        print(f"error: {file}: not there. Run: python -m pytest tests/test_slurm_faults.py", file=sys.stderr)
        return 2
    try:
        README.write_text(put(README.read_text(encoding="utf-8"), file.read_text(encoding="utf-8")), encoding="utf-8")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
