"""Runs the training role: ``python -m jobs.grpo --run-dir RUN --role train``."""

from __future__ import annotations

import asyncio
import sys

from jobs import entry
from jobs.grpo.settings import Settings
from orchestrator.errors import OrchestratorError


def main() -> int:
    drain = entry.Drain().listen()
    try:
        context, settings = entry.start("grpo", Settings)
        # After the arguments are known to be right: torch and transformers take seconds to import.
        from jobs.grpo.loop import train

        return asyncio.run(train(context, settings, drain))
    except OrchestratorError as error:
        return entry.exit_with(error)


if __name__ == "__main__":
    sys.exit(main())
