"""Runs fine-tuning: ``python -m jobs.sft --settings sft.yaml --out out/``, or as a role of a run.

Publishes ``model``, the folder of the trained model. It does not resume: a drained or failed
training starts anew, which for warm starts costs minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jobs import entry
from jobs.sft.settings import Settings
from orchestrator import rendezvous
from orchestrator.errors import OrchestratorError


def main() -> int:
    """Train, publish the model's folder and return the exit code."""
    drain = entry.Drain().listen()
    try:
        context, settings = entry.start("sft", Settings)
        context.progress.update("starting")
        from jobs.sft import conversations

        examples = conversations.load(Path(settings.path), settings.format_prompt)
        # After settings and examples are known to be right, because this takes seconds.
        from jobs.sft import loop

        folder = (context.run.role(context.role) if context.plan else context.run.path) / "model"
        loss = loop.train(settings, examples, folder, context.progress, drain)
    except OrchestratorError as error:
        return entry.exit_with(error)
    if loss is None:
        return entry.DRAINED
    rendezvous.publish_outputs(context.run, context.role, {"model": str(folder), "loss": f"{loss:.6f}"})
    context.progress.update("done", message=f"loss {loss:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
