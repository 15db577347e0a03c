"""What a ``command`` role runs."""

from __future__ import annotations

import shutil

from pydantic import Field

from orchestrator.errors import Problem
from orchestrator.rendezvous import PLACEHOLDER
from orchestrator.section import Section


class Settings(Section):
    """A program, its arguments and what it leaves behind."""

    argv: tuple[str, ...] = Field(min_length=1)
    """The program and its arguments. No shell reads them; for one, write ``[bash, -c, "..."]``."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Added to the program's environment; unlike the role's own, ``{judge.url}`` is filled in here."""
    outputs: dict[str, str] = Field(default_factory=dict)
    """What later roles may refer to as ``{role.key}``, published once the program has ended with 0."""


def missing(settings: Settings) -> list[Problem]:
    """Return a problem if this machine has no such program."""
    program = settings.argv[0]
    if PLACEHOLDER.search(program) or shutil.which(program):
        return []
    return [
        Problem(
            place="argv",
            fact=f"There is no program {program!r}.",
            way_out="Install it, or give its path; a relative one starts at the checkout.",
        )
    ]
