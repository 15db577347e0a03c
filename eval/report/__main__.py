"""``python -m eval.report --run-dir DIR`` writes ``report.html`` beside the run; several runs make one page."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from eval.report import comparison_page, run_page
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.files import write_text
from orchestrator.run_directory import RunDirectory


def main(arguments: list[str] | None = None) -> int:
    """Write the page and print where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.report", description="Write a run's report, or one of several runs side by side."
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        required=True,
        action="append",
        metavar="DIR",
        help="a run; repeat to compare",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write; a comparison needs it")
    given = parser.parse_args(arguments)
    runs = [RunDirectory(path.absolute()) for path in given.run_dir]
    started = time.monotonic()
    try:
        output = _output(runs, given.output)
        write_text(output, run_page.build(runs[0]) if len(runs) == 1 else comparison_page.build(runs))
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{output} ({output.stat().st_size / 1e6:.1f} MB, {time.monotonic() - started:.1f} s)")
    return 0


def _output(runs: list[RunDirectory], given: Path | None) -> Path:
    if given is not None:
        return given.absolute()
    if len(runs) == 1:
        return runs[0].report
    raise InputError(f"--output: a comparison of {len(runs)} runs belongs to none of them. Name a file for it.")


if __name__ == "__main__":
    sys.exit(main())
