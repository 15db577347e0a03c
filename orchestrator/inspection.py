"""Asks the data plane whether every job, reward and source that a recipe names exists.

The control plane knows jobs by name only, so the question goes to ``python -m jobs.check``, a
process of its own. It is started before the recipe is read: while we read, it imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InputError

if TYPE_CHECKING:
    from orchestrator.section import Fault

TIMEOUT_S = 60.0


def checkout() -> Path:
    """Return the folder that holds ``jobs/`` and ``eval/``: where this package lies, else around the working directory.

    The recipe's own surroundings are not looked at: reading somebody's recipe must not run somebody's code.

    Raises:
        InputError: There is none.
    """
    candidates = (Path(__file__).resolve().parent.parent, Path.cwd(), *Path.cwd().parents)
    for folder in candidates:
        if (folder / "jobs" / "check.py").is_file():
            return folder
    raise InputError(f"{Path.cwd()}: no checkout with jobs/ here. Change to the folder that 'git clone' made.")


class Inspection:
    """One run of ``jobs.check``. Use as a context, so that it never outlives its caller."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jobs.check", "-"],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Inspection:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def faults(self, data: Any) -> tuple[list[Fault], list[Fault]]:
        """Return what can never work and what does not work in this installation.

        Args:
            data: A whole recipe, not necessarily a sound one; roles without a job are left out.

        Raises:
            RuntimeError: The check itself broke; its output is in the message. That is a bug of a job.
        """
        question = json.dumps({"roles": roles(data)})
        try:
            answer, talk = self._process.communicate(question, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"python -m jobs.check gave no answer within {TIMEOUT_S:g} s.") from None
        if self._process.returncode != 0:
            raise RuntimeError(f"python -m jobs.check broke with exit code {self._process.returncode}:\n{talk}")
        found = json.loads(answer)
        return _faults(found["problems"]), _faults(found["missing"])


def roles(data: Any) -> list[dict[str, Any]]:
    """Return what ``jobs.check`` asks of every role; those without a job are left out."""
    from orchestrator.rules import services

    written = data.get("roles")
    if not isinstance(written, dict):
        return []
    running = services(written)
    return [
        {
            "name": name,
            "job": role["job"],
            "kind": "service" if name in running else "batch",
            "settings": role.get("with", {}),
        }
        for name, role in written.items()
        if isinstance(role, dict) and isinstance(role.get("job"), str) and isinstance(role.get("with", {}), dict)
    ]


def _faults(records: list[dict[str, Any]]) -> list[Fault]:
    from orchestrator.section import Fault

    return [Fault(path=tuple(r["path"]), fact=r["fact"], way_out=r["way_out"]) for r in records]
