"""Starts TRL on a problem, a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from bench.trl.problem import Problem

CHECKOUT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 1800.0


def run(python: Path, problem: Problem, folder: Path, timeout_s: float = TIMEOUT_S) -> list[dict[str, float]]:
    """Return the seconds of every step and of its parts.

    Args:
        python: Of the environment with TRL.
        problem: What to do.
        folder: For files in between.
        timeout_s: Longest time for it.

    Raises:
        RuntimeError: It failed; the message ends with what it wrote last.
    """
    given, result, log = problem.write(folder / "problem.json"), folder / "result.json", folder / "trl.log"
    result.unlink(missing_ok=True)
    command = [str(python), "-W", "ignore", "-m", "bench.trl.peer", str(given), str(result)]
    with log.open("w") as output:
        ended = subprocess.run(
            command, cwd=CHECKOUT, env=environment(), stdout=output, stderr=output, timeout=timeout_s, check=False
        )
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed with {ended.returncode}:\n{log.read_text()[-3000:]}")
    steps: list[dict[str, float]] = json.loads(result.read_text())["steps"]
    return steps


def environment(**more: str) -> dict[str, str]:
    """Return the environment of every process that is measured: one thread, no network."""
    return (
        os.environ
        | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        | more
    )
