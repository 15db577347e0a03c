"""The trainer as a role of a recipe. Settings: ``steps``, ``step_s``, ``ask`` (the service to ask)."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from bench.stand_in import marks, work
from orchestrator import ledger, plan, rendezvous
from orchestrator.ledger import Ledger
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory
from tests.orchestrator.allocation.fakes.batch import ask

FOLLOW_S = 0.05


def main() -> int:
    """Train, and publish what a finished role publishes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--role")
    given = parser.parse_args()
    run = RunDirectory(given.run_dir)
    asked = work.hear(run.path)
    if os.environ.get("ORCH_NODE_RANK", "0") != "0":
        return _follow(run, given.role, asked)
    settings = plan.load(run.plan).role(given.role).settings
    generation = int(os.environ["ORCH_GENERATION"])
    book = Ledger(run.ledger, generation)
    progress = Progress(run.progress, given.role)

    def commit(step: int) -> bool:
        if ledger.newest_generation(run.ledger) > generation:
            return False
        began = time.monotonic()
        folder = run.checkpoints / f"step_{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "MANIFEST.json").write_text("{}")
        seconds = time.monotonic() - began
        book.append("checkpoint_committed", step=step, path=folder.name, seconds=round(seconds, 4))
        progress.update("training", step, settings["steps"], unit="steps")
        return True

    def judge() -> str:
        return str(json.loads(ask(run, settings["ask"]))["from"])

    code = work.train(
        run.path, steps=settings["steps"], step_s=settings["step_s"], ask=judge, asked=asked, commit=commit
    )
    if code == 0:
        rendezvous.publish_outputs(run, given.role, {"step": str(marks.newest_step(run.path))})
    return code


def _follow(run: RunDirectory, role: str, asked: list[int]) -> int:
    """Be a node that only holds its place: end when asked, or when the first one has finished."""
    while not asked and not (run.outputs / f"{role}.json").exists():
        time.sleep(FOLLOW_S)
    return work.DRAINED if asked else 0


if __name__ == "__main__":
    sys.exit(main())
