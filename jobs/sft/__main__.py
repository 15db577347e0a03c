"""Runs fine-tuning: ``python -m jobs.sft --settings sft.yaml --out out/``, or as a role of a run.

Publishes ``model``, the folder of the trained model. With ``policy`` it saves as it goes and resumes, and takes as
many nodes as the role has; without, a drained or failed training starts anew, which for warm starts costs minutes.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from jobs import entry
from jobs.entry import Context, Drain
from jobs.grpo import cluster
from jobs.sft.settings import Settings
from orchestrator import rendezvous
from orchestrator.errors import InputError, OrchestratorError


def main() -> int:
    """Train, publish the model's folder and return the exit code."""
    drain = Drain().listen()
    try:
        context, settings = entry.start("sft", Settings)
        if settings.policy is not None:
            return _on_a_policy(context, settings, drain)
        nodes = len(cluster.own(context).hosts)
        if nodes > 1:
            raise InputError(
                f"roles.{context.role}.with.policy: without it one process trains, and the role has {nodes} nodes. "
                "Say how the model is spread, or set nodes: 1."
            )
        context.progress.update("starting")
        from jobs.sft import conversations

        examples = conversations.read(settings)
        # After settings and examples are known to be right, because this takes seconds.
        from jobs.sft import loop

        folder = _folder(context) / "model"
        loss = loop.train(settings, examples, folder, context.progress, drain)
    except OrchestratorError as error:
        return entry.exit_with(error)
    return entry.DRAINED if loss is None else _done(context, folder, loss)


def _on_a_policy(context: Context, settings: Settings, drain: Drain) -> int:
    from jobs.grpo import meeting

    nodes = cluster.own(context)
    if nodes.rank > 0:
        from jobs.grpo import ray_node

        return ray_node.serve(context, settings, nodes, drain)
    context.progress.update("loading data")
    from jobs.sft import conversations

    examples = conversations.read(settings)
    from jobs.sft.training import Training

    training = Training(context, settings, examples, _folder(context), drain)
    with meeting.chaired(meeting.place(context.run, context.role), context.generation):
        folder = asyncio.run(training.run())
    return entry.DRAINED if folder is None else _done(context, folder, training.loss)


def _folder(context: Context) -> Path:
    return context.run.role(context.role) if context.plan else context.run.path


def _done(context: Context, folder: Path, loss: float | None) -> int:
    outputs = {"model": str(folder)} | ({} if loss is None else {"loss": f"{loss:.6f}"})
    rendezvous.publish_outputs(context.run, context.role, outputs)
    context.progress.update("done", message="" if loss is None else f"loss {loss:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
