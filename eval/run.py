"""The job ``eval``: models answer tasks, and every answer is measured the moment it ends.

    python -m eval.run --run-dir runs/geo3k --role eval                             inside a run
    python -m eval.run --settings eval.yaml --out out/                              by hand
    python -m eval.run --task geometry3k --model Qwen/Qwen2.5-VL-7B-Instruct --data geo3k:data/test.parquet
    python -m eval.run --task geometry3k --checkpoint runs/geo3k:40 --data geo3k:data/test.parquet
    python -m eval.run --task mathvista --endpoint http://node7:8000/v1 --data vlmevalkit:MathVista_MINI.tsv

An answer is measured by the kind of its problem (``eval.tasks``) and by the training's own rewards, while the model
goes on. Rows are on disk a moment later, so a stopped evaluation goes on where it was.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

from eval import by_hand
from eval.crew import Crew
from eval.evaluation import Evaluation
from eval.job import Job, jobs_of
from eval.meter import Meter
from eval.settings import Settings, in_order
from jobs import data, entry
from jobs.entry import DRAINED, Context, Drain
from jobs.grpo import cluster, meeting
from orchestrator import rendezvous
from orchestrator.errors import OrchestratorError


async def evaluate(context: Context, settings: Settings, drain: Drain) -> int:
    """Evaluate every model on every task and return the exit code.

    Raises:
        InputError: A task's file cannot be read, or a problem cannot be asked.
        NotFound: There is no such file, or no such server.
        ConflictError: The folder holds another evaluation.
        EngineLost: The last engine died; what was answered is kept.
        JudgeOutage: The judge stayed away longer than its budget; what was judged is kept.
        RunFailed: A server or engine was silent for too long.
    """
    context.progress.update("reading problems", message=", ".join(settings.tasks))
    examples = {name: (await asyncio.to_thread(data.read, task))[: task.limit] for name, task in settings.tasks.items()}
    async with AsyncExitStack() as stack:
        crew = Crew(context, settings)
        stack.push_async_callback(crew.close)
        await crew.meet()
        for label in in_order(settings.models):
            context.progress.update(f"checking {label}", message="its weights and what is answered already")
            jobs = await asyncio.to_thread(jobs_of, context, settings, label, examples)
            if not await _evaluate_model(context, settings, drain, crew, jobs):
                return DRAINED
    rendezvous.publish_outputs(context.run, context.role, {"folder": str(context.run.eval)})
    return 0


async def _evaluate_model(context: Context, settings: Settings, drain: Drain, crew: Crew, jobs: Sequence[Job]) -> bool:
    """Return whether all is done; False if a drain came first."""
    pending = [job for job in jobs if job.left or not job.summed_up]
    if not pending:
        return True
    context.progress.update(f"loading {jobs[0].label}", message=jobs[0].model)
    answering = await crew.hire(jobs[0].label)
    try:
        for job in pending:
            job.require_served(answering.about)
            async with Meter(context, settings, job) as meter:
                await Evaluation(context, drain, meter, answering, job).run()
                if job.left:
                    return False
                await asyncio.to_thread(job.finish, context, settings, meter, answering.about)
    finally:
        await answering.close()
    return True


def main(arguments: list[str] | None = None) -> int:
    """Run the job and return its exit code."""
    drain = Drain().listen()
    try:
        context, settings = entry.start("eval", Settings, by_hand.settled(arguments))
        nodes = cluster.own(context)
        if nodes.rank > 0:
            from jobs.grpo import ray_node

            return ray_node.serve(context, settings, nodes, drain)
        if len(nodes.hosts) == 1:
            return asyncio.run(evaluate(context, settings, drain))
        with meeting.chaired(meeting.place(context.run, context.role), context.generation):
            return asyncio.run(evaluate(context, settings, drain))
    except OrchestratorError as error:
        return entry.exit_with(error)


if __name__ == "__main__":
    sys.exit(main())
