"""How an attempt is to end, and what becomes of the run then."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Ending:
    """In which state an attempt is to end, and why.

    Attributes:
        state: As in ``control.EXIT_CODES``.
        cause: A sentence.
        kind: What ended it, as ``history`` counts it; empty if Slurm is still to be asked.
    """

    state: str
    cause: str
    kind: str = "drained"
