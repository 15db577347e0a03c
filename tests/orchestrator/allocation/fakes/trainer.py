"""A trainer without a model: commits numbered steps, asks a judge in each, resumes where the last one ended.

Settings: ``steps`` in all, ``step_s`` seconds each, ``ask`` the service to ask, ``crash_at`` a step at which it
exits with 1 in the first ``times`` starts (for ever if left out), ``bad_node`` a host on which it always does,
``slow_save_s`` for the save at the end of a drain. Every committed step is one line of ``steps.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from orchestrator import ledger, plan, rendezvous
from orchestrator.ledger import Ledger
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory
from tests.orchestrator.allocation.fakes.batch import ask, count_start


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--role")
    given = parser.parse_args()
    run = RunDirectory(given.run_dir)
    settings = plan.load(run.plan).role(given.role).settings
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, _frame: asked.append(number))
    rank = int(os.environ.get("ORCH_NODE_RANK", "0"))
    if rank > 0:
        return _follow(run, given.role, asked)
    start = count_start(run, given.role)
    progress = Progress(run.progress, given.role)
    total = settings["steps"]
    for step in range(newest(run) + 1, total + 1):
        progress.update("training", step - 1, total, unit="steps")
        if settings.get("ask"):
            ask(run, settings["ask"])
        time.sleep(settings.get("step_s", 0.2))
        crashes = settings.get("crash_at") == step and start <= settings.get("times", 1_000)
        if crashes or settings.get("bad_node") == socket.gethostname():
            print("error: told to crash", flush=True)
            return 1
        if asked:
            time.sleep(settings.get("slow_save_s", 0))
            return 75
        if not commit(run, step):
            return 3
    rendezvous.publish_outputs(run, given.role, {"step": str(total)})
    return 0


def newest(run: RunDirectory) -> int:
    """Return the newest step with a manifest; 0 before the first."""
    found = [int(path.parent.name.removeprefix("step_")) for path in run.checkpoints.glob("step_*/MANIFEST.json")]
    return max(found, default=0)


def commit(run: RunDirectory, step: int) -> bool:
    """Write the step, unless a newer attempt has begun."""
    generation = int(os.environ["ORCH_GENERATION"])
    if ledger.newest_generation(run.ledger) > generation:
        return False
    folder = run.checkpoints / f"step_{step:08d}"
    folder.mkdir(parents=True)
    line = {"step": step, "generation": generation, "host": socket.gethostname(), "at": time.time()}
    with open(run.path / "steps.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    (folder / "MANIFEST.json").write_text("{}")
    Ledger(run.ledger, generation).append("checkpoint_committed", step=step, path=folder.name, seconds=0.0)
    return True


def _follow(run: RunDirectory, role: str, asked: list[int]) -> int:
    """Be a node without work: end when the first one has, or when asked."""
    while not asked and not (run.outputs / f"{role}.json").exists():
        time.sleep(0.05)
    return 75 if asked else 0


if __name__ == "__main__":
    sys.exit(main())
