"""What the builder of the tiny extractor may be told. Imports nothing heavy."""

from __future__ import annotations

from pydantic import Field

from jobs.tiny.settings import WarmStart
from orchestrator.section import Section


class Settings(Section):
    """Makes a tiny text model that lists the visual facts of a solution of a synthetic scene."""

    seed: int = 1
    """Fixes weights and examples."""
    model: WarmStart = WarmStart(hidden=96, examples=6000, steps=200, batch=24, learning_rate=3e-3, prompt_weight=0.1)
    """Its size and training."""
    cases: int = Field(200, ge=50)
    """Held-out solutions on which it is measured."""
    exact_min: float = Field(0.9, ge=0, le=1)
    """The share of them whose facts it must list without a fault; less is an error."""
    timeout_s: float = Field(600.0, gt=0)
    """Longest time the training may take."""
