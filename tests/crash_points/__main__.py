"""Prints the table, and what did harm to what a run does; exits with 1 if anything did."""

from __future__ import annotations

import sys

from tests.crash_points import runner
from tests.crash_points.scenarios import BAD, OURS


def main() -> int:
    words = sys.argv[1:] or [""]
    names = [scenario.name for scenario in (*OURS, *BAD) if any(word in scenario.name for word in words)]
    rows = runner.run(names)
    print(f"At how many calls a fault did harm.\n\n{runner.table(rows)}")
    ours = {scenario.name for scenario in OURS}
    harms = [f"{row.scenario}: {harm}" for row in rows if row.scenario in ours for harm in row.harms]
    print("\n" + "\n".join(harms or ["No fault did harm to anything that a run does."]))
    return 1 if harms else 0


if __name__ == "__main__":
    sys.exit(main())
