"""Makes tiny models and data, or finds them made: ``python -m jobs.tiny --settings tiny.yaml --out out/``.

Publishes ``policy``, ``judge`` and ``base`` (folders), ``train_data`` and ``test_data`` (parquet); for tasks other
than geo3k no judge, but ``sft_data``, the training problems with right responses.
They lie in the cache, ``$ORCH_CACHE`` or ``~/.cache/orchestrator``, and outlive the run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jobs import entry
from jobs.tiny.settings import Settings
from orchestrator import rendezvous
from orchestrator.errors import OrchestratorError

OUTPUTS = {
    "policy": "policy",
    "judge": "judge",
    "base": "base",
    "train_data": "train.parquet",
    "test_data": "test.parquet",
    "sft_data": "right.parquet",
}
"""What there may be in the folder of a build."""


def main() -> int:
    """Build unless it is built, publish where everything is, and return the exit code."""
    drain = entry.Drain().listen()
    try:
        context, settings = entry.start("tiny", Settings)
        context.progress.update("looking for an earlier build")
        from jobs.tiny import cache

        folder = cache.root() / cache.name(settings.model_dump())
        if not folder.is_dir() and not _build(folder, settings, context, drain):
            return entry.DRAINED
    except OrchestratorError as error:
        return entry.exit_with(error)
    made = {key: str(folder / name) for key, name in OUTPUTS.items() if (folder / name).exists()}
    rendezvous.publish_outputs(context.run, context.role, made)
    context.progress.update("done", message=f"in {folder}")
    return 0


def _build(folder: Path, settings: Settings, context: entry.Context, drain: entry.Drain) -> bool:
    # Only now, because it takes seconds that a second run need not spend.
    from jobs.tiny import build, cache

    return cache.build(folder, lambda beside: build.build(settings, beside, context.progress, drain))


if __name__ == "__main__":
    sys.exit(main())
