"""Runs the training role on one node: ``python -m jobs.grpo --run-dir RUN --role train``.

Started once on every node of the role. The first one, of rank 0, trains; the others lend it their Ray.
"""

from __future__ import annotations

import asyncio
import sys

from jobs import entry
from jobs.grpo import cluster, meeting
from jobs.grpo.settings import Settings
from orchestrator.errors import InputError, OrchestratorError


def main() -> int:
    drain = entry.Drain().listen()
    try:
        context, settings = entry.start("grpo", Settings)
        nodes = cluster.own(context)
        if len(nodes.hosts) > 1 and not settings.ray:
            raise InputError(
                f"roles.{context.role}.with.ray: false keeps all in one process, and the role has {len(nodes.hosts)} "
                "nodes. Leave it out, or set nodes: 1."
            )
        if nodes.rank > 0:
            from jobs.grpo import ray_node

            return ray_node.serve(context, settings, nodes, drain)
        from jobs.grpo.loop import train  # aiohttp and pyarrow come with it, which the other nodes do not need

        with meeting.chaired(meeting.place(context.run, context.role), context.generation):
            return asyncio.run(train(context, settings, drain))
    except OrchestratorError as error:
        return entry.exit_with(error)


if __name__ == "__main__":
    sys.exit(main())
