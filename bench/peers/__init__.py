"""How others start a trainer and a judge on Slurm, each its own way, with the same stand-ins."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from pathlib import Path

from bench.stand_in import marks
from bench.stand_in.marks import Mark
from cluster.sandbox import Sandbox

CHECKOUT = Path(__file__).resolve().parents[2]


class Peer(ABC):
    """One job of trainer and judge.

    Attributes:
        name: In words, for the table.
        folder: Where its marks are.
        job: Its id, once submitted.
    """

    name: str

    def __init__(self, sandbox: Sandbox, folder: Path, step_s: float) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self.step_s = step_s
        self.job = ""
        folder.mkdir(parents=True)

    @abstractmethod
    def submit(self) -> None:
        """Submit the job and note its id."""

    def cancel(self) -> None:
        """End it for good."""
        self.sandbox.run(["scancel", self.job])

    def marks(self, *what: str) -> list[Mark]:
        """Return what its stand-ins have said."""
        return marks.read(self.folder, *what)

    def role(self, role: str) -> list[str]:
        """Return the command line of a role."""
        more = ["--step-s", str(self.step_s)] if role == "trainer" else []
        return [sys.executable, "-m", "bench.stand_in.alone", role, str(self.folder), *more]
