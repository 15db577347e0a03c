"""Builds annotated data: ``python -m jobs.construct --settings construct.yaml --out out/``, or as a role of a run.

Publishes ``data`` (parquet), ``failures``, ``summary`` and ``rows``. It goes on where it was stopped: every answer
is on disk before it is used. For batch files see ``jobs.construct.batch``.
"""

from __future__ import annotations

import sys

from jobs import entry
from jobs.construct.settings import Settings
from orchestrator.errors import OrchestratorError


def main() -> int:
    """Build, or do what a command says, and return the exit code."""
    drain = entry.Drain().listen()
    try:
        if len(sys.argv) > 1 and sys.argv[1].startswith("batch-"):
            from jobs.construct import batch

            return batch.main(sys.argv[1:])
        context, settings = entry.start("construct", Settings)
        # After the settings are known to be right, because this takes a second.
        from jobs.construct import job

        return job.build(context, settings, drain)
    except OrchestratorError as error:
        return entry.exit_with(error)


if __name__ == "__main__":
    sys.exit(main())
