"""The jobs a recipe can name, one line each. Importing this module imports none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Job:
    """A program that can be a role.

    Attributes:
        module: What ``python -m`` runs.
        settings: The module that holds ``class Settings(Section)``, and maybe ``problems(settings)``
            and ``missing(settings)``; see ``jobs.check``.
        kind: ``service`` serves until it is stopped; ``batch`` ends by itself.
        alone: Only one role of a run may have this job, because its files have fixed names.
        spreads: It can use several nodes; every one of them runs the program, with its ``ORCH_NODE_RANK``.
    """

    module: str
    settings: str
    kind: Literal["service", "batch"] = "batch"
    alone: bool = False
    spreads: bool = False


JOBS = {
    "judge": Job(module="jobs.judge", settings="jobs.judge.settings", kind="service"),
    "grpo": Job(module="jobs.grpo", settings="jobs.grpo.settings", alone=True, spreads=True),
    "sft": Job(module="jobs.sft", settings="jobs.sft.settings", spreads=True),
    "tiny": Job(module="jobs.tiny", settings="jobs.tiny.settings"),
    "construct": Job(module="jobs.construct", settings="jobs.construct.settings"),
    "command": Job(module="jobs.command", settings="jobs.command.settings", spreads=True),
    "eval": Job(module="eval.run", settings="eval.settings", spreads=True),
}
