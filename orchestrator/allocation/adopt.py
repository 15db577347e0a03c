"""Makes a run's folder from a plan on the standard input, unless it is there already.

    python -m orchestrator.allocation.adopt --run-dir runs/geo3k < plan.json

Every batch script begins with this. After ``submit`` there is nothing left to do. A script that was rendered
and given to sbatch by hand makes here what ``submit`` would have made, so all verbs know the run from then on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from uuid import uuid4

from orchestrator import __version__, plan, render
from orchestrator.errors import ConflictError, InputError, OrchestratorError
from orchestrator.files import sync_folder, write_text
from orchestrator.ledger import Ledger
from orchestrator.plan import Plan
from orchestrator.run_directory import RunDirectory

CHECKOUT = Path(__file__).resolve().parents[2]


def adopt(run: RunDirectory, text: str) -> bool:
    """Make the folder of ``run`` from the plan in ``text``; return whether this call has made it.

    Of several jobs that do so at once, as those of a pair may, one makes it and the others find it.

    Raises:
        InputError: The text is not a plan that this version reads.
        ConflictError: The folder is there and holds another plan, or is no run.
    """
    wanted = _plan(text)
    if not run.path.exists() and _made(run, wanted):
        return True
    if not run.plan.exists():
        raise ConflictError(f"run: {run.path} is in the way and is not a run. Move it away, or render with --run-name.")
    if plan.load(run.plan) != wanted:
        raise ConflictError(
            f"run: {run.path} holds a run with another plan. Render again with --run-name NAME, or continue that "
            f"run: python -m orchestrator resume {run.name}"
        )
    return False


def _plan(text: str) -> Plan:
    try:
        return plan.from_json(text)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"standard input: is not a plan that this version reads: {error}") from None


def _made(run: RunDirectory, wanted: Plan) -> bool:
    """Write the folder under a hidden name and rename it into place; False if another was faster."""
    draft = RunDirectory(run.path.with_name(f".{run.name}.{uuid4().hex[:8]}.tmp"))
    draft.create()
    write_text(draft.plan, plan.to_json(wanted))
    site = render.Site(checkout=CHECKOUT, python=Path(sys.executable), run_dir=run.path)
    for name, script in render.scripts(wanted, site).items():
        write_text(draft.path / name, script)
    Ledger(draft.ledger, 0).append(
        "submitted", recipe=wanted.recipe, sha256=wanted.recipe_sha256, cluster=wanted.cluster, version=__version__
    )
    try:
        os.rename(draft.path, run.path)
    except OSError:  # a folder with something in it has the name by now
        shutil.rmtree(draft.path)
        if run.path.exists():
            return False
        raise
    sync_folder(run.path.parent)
    return True


def main(arguments: list[str] | None = None) -> int:
    """Adopt the plan on the standard input."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.allocation.adopt")
    parser.add_argument("--run-dir", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        adopt(RunDirectory(given.run_dir.absolute()), sys.stdin.read())
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
