"""The training loop: deal prompts, collect groups, step, synchronise, record, save.

    for every step:  prompts -> collector (engine, rewards) -> journal -> policy.step -> metrics.jsonl, rollouts.jsonl,
                     tb/ -> every few steps a checkpoint; engines get the new weights before they sample again

A step that was begun and not committed leaves no trace but its journal: a resume repeats it from there, or from
the same prompts with the same seeds. Asked to stop, the loop abandons the step it is collecting, saves, and ends.
"""

from __future__ import annotations

import asyncio
import importlib

from jobs import data
from jobs.entry import DRAINED, Context, Drain
from jobs.fence import Fence
from jobs.grpo import checkpoint, workers
from jobs.grpo.checkpoint import MODEL_FOLDER, State
from jobs.grpo.collector import Collector
from jobs.grpo.draining import Draining, unless_draining
from jobs.grpo.prompts import PromptSource
from jobs.grpo.sameness import settings_sha256
from jobs.grpo.settings import Settings
from jobs.rewards.scorer import Scorer
from orchestrator import rendezvous
from orchestrator.errors import InputError

SLOW_IMPORTS = ("jobs.grpo.trainer", "torch.utils.tensorboard")


async def train(context: Context, settings: Settings, drain: Drain) -> int:
    """Train until all steps are committed or the job is asked to stop; return the exit code.

    Raises:
        InputError: The data has fewer rows than one step needs.
        JudgeOutage: The judge stayed away longer than its budget; what was trained is saved.
        WorkerLost: A Ray worker died.
        WeightsDiffer: Engine and trainer disagree.
        ConflictError: A newer attempt of the run has begun.
    """
    fence = Fence(context.run.ledger, context.generation)
    fence.check()
    context.progress.update("loading data")
    examples = data.read(settings.data)
    source = prompt_source(settings, len(examples))
    total = settings.steps or settings.epochs * source.batches_per_epoch
    resumed = _resume(context, settings)
    state = resumed.state if resumed else State(settings_sha256=settings_sha256(settings))
    if state.step >= total:
        return _finish(context, state, total)
    context.progress.update("starting workers", message="Ray" if settings.ray else "in this process")
    imports = asyncio.ensure_future(asyncio.to_thread(_import_slowly))
    starting = workers.start(context, settings, resumed.folder if resumed else None)
    try:
        crew = await unless_draining(starting, drain, fence.check)
    except Draining:
        return DRAINED
    finally:
        await imports
    try:
        async with Scorer.of_role(context, settings.rewards) as scorer:
            collects = Collector(settings=settings, workers=crew, scorer=scorer, examples=examples, source=source)
            from jobs.grpo.trainer import Trainer  # imported by now, while the workers started

            state = await Trainer(context, settings, drain, fence, total, crew, collects).run(state)
    finally:
        crew.close()
    fence.check()
    return _finish(context, state, total) if state.step >= total else DRAINED


def _import_slowly() -> None:
    """Import what the loop needs and takes seconds, while workers start."""
    for module in SLOW_IMPORTS:
        importlib.import_module(module)


def prompt_source(settings: Settings, examples: int) -> PromptSource:
    """Return the order of prompts, or say that there are too few for one step."""
    if examples < settings.prompts_per_step:
        raise InputError(
            f"data: {settings.data.path} has {examples} examples and prompts_per_step is "
            f"{settings.prompts_per_step}. Lower prompts_per_step to at most {examples}."
        )
    return PromptSource(examples=examples, batch=settings.prompts_per_step, seed=settings.seed)


def _resume(context: Context, settings: Settings) -> checkpoint.Checkpoint | None:
    found = checkpoint.newest(context.run.checkpoints)
    if found is None:
        return None
    checkpoint.require_same_settings(found.state, settings_sha256(settings), found.folder)
    context.ledger.append("resumed", step=found.state.step, path=found.folder.name)
    return found


def _finish(context: Context, state: State, total: int) -> int:
    """Hand the last checkpoint's model on. Only called when every planned step is committed."""
    found = checkpoint.newest(context.run.checkpoints)
    assert found is not None, "a finished training has committed its last step"
    assert found.state.step >= total, "the last planned step is committed"
    rendezvous.publish_outputs(
        context.run, context.role, {"model": str(found.folder / MODEL_FOLDER), "step": str(found.state.step)}
    )
    context.progress.update("trained", state.step, total, unit="steps")
    return 0
