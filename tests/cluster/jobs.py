"""Submitting small jobs in a sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from cluster.sandbox import Sandbox

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
_numbers = count()


def script(folder: Path, body: str) -> str:
    """Write a shell script and return its path."""
    path = folder / f"script-{next(_numbers)}.sh"
    path.write_text("#!/bin/sh\n" + body, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def submit(sandbox: Sandbox, folder: Path, body: str, options: Sequence[str] = ()) -> str:
    """Submit a shell script whose output goes to ``folder/<id>.out`` and return the job's id."""
    fixed = ["sbatch", "--parsable", "--no-requeue", "--export=ALL", f"--output={folder}/%j.out"]
    return sandbox.run([*fixed, *options, script(folder, body)], check=True).stdout.strip()


def output(folder: Path, job_id: str) -> str:
    """Return what a job printed."""
    return (folder / f"{job_id}.out").read_text(encoding="utf-8")
