"""The training loop: deal prompts, collect groups, step, synchronise, record, save.

    for every step:  prompts -> collector (engine, rewards) -> policy.step -> engine has the new weights
                     -> metrics.jsonl, rollouts.jsonl, tb/ -> every few steps a checkpoint

A step that was begun and not committed leaves no trace: a resume repeats it from the same prompts
with the same seeds. Asked to stop, the loop abandons the step it is collecting, saves, and ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from jobs import data
from jobs.data import Example
from jobs.entry import DRAINED, Context, Drain
from jobs.fence import Fence
from jobs.grpo import checkpoint, collector, workers
from jobs.grpo.checkpoint import MODEL_FOLDER, State
from jobs.grpo.draining import Draining, unless_draining
from jobs.grpo.prompts import PromptSource
from jobs.grpo.records import Records
from jobs.grpo.settings import Settings
from jobs.grpo.workers import Workers
from jobs.rewards.scorer import Scorer
from orchestrator import rendezvous
from orchestrator.errors import ConflictError, InputError

T = TypeVar("T")
SLOW_IMPORTS = ("jobs.grpo.algo", "torch.utils.tensorboard")


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
    examples = data.load(settings.data.source, Path(settings.data.path))
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
            trainer = Trainer(context, settings, drain, fence, examples, source, total, crew, scorer)
            state = await trainer.run(state)
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


def settings_sha256(settings: Settings) -> str:
    """Return a digest of all settings that decide what a step computes.

    Left out is what may differ between two attempts at the same run: when to save and log, where
    the models of earlier roles lie, how long to wait, and the length of training.
    """
    text = settings.model_dump_json(
        exclude={
            "model": True,
            "steps": True,
            "epochs": True,
            "checkpoint": True,
            "log_rollouts": True,
            "ray": True,
            "ray_start_timeout_s": True,
            "data": {"path"},
            "engine": {"timeout_s"},
            "policy": {"timeout_s"},
        }
    )
    return hashlib.sha256(text.encode()).hexdigest()


def learning_rate(settings: Settings, step: int, total: int) -> float:
    """Return the rate of optimiser step ``step`` (from 1): a linear warm-up, then constant.

    The first step's rate is already above 0; in the published code it is 0, so that the first of 275
    steps learns nothing.
    """
    warmup = round(settings.policy.warmup_ratio * total)
    return settings.policy.learning_rate * min(1.0, step / warmup if warmup else 1.0)


class Trainer:
    """The loop and what it holds on to."""

    def __init__(
        self,
        context: Context,
        settings: Settings,
        drain: Drain,
        fence: Fence,
        examples: list[Example],
        source: PromptSource,
        total: int,
        crew: Workers,
        scorer: Scorer,
    ) -> None:
        self._context = context
        self._settings = settings
        self._drain = drain
        self._fence = fence
        self._examples = examples
        self._source = source
        self._total = total
        self._crew = crew
        self._scorer = scorer
        self._saved = 0
        # The step whose weights the policy has; None while they change.
        self._policy_at: int | None = None

    async def run(self, state: State) -> State:
        """Make steps from ``state`` on and return the last state that is saved."""
        self._saved = self._policy_at = state.step
        self._fence.check()
        records = Records(
            self._context.run,
            step=state.step,
            metrics_bytes=state.metrics_bytes,
            rollouts_bytes=state.rollouts_bytes,
            log_rollouts=self._settings.log_rollouts,
        )
        try:
            while state.step < self._total:
                state = await self._step(state, records)
                if state.step % self._settings.checkpoint.every_steps == 0 or state.step == self._total:
                    await self._save(state)
        except Draining:
            self._context.progress.update("draining", message=f"saving step {state.step}")
            await self._save(state)
        except (ConflictError, checkpoint.NoSpace):
            raise
        except Exception:
            # Between steps the policy is whole, so an outage of anything else loses no step.
            if self._policy_at == state.step:
                await self._save_if_the_policy_lives(state)
            raise
        finally:
            records.close()
        return state

    async def _step(self, state: State, records: Records) -> State:
        began = time.monotonic()
        step = state.step + 1
        indices, cursor = self._source.deal(state.cursor)
        batch = [self._examples[index] for index in indices]
        collected = await self._or_drain(
            collector.collect(self._settings, self._crew, self._scorer, step, batch, self._collecting(step))
        )
        rows = collector.training_rows(collected.groups)
        metrics = collector.metrics(collected) | self._scorer.metrics()
        updating = time.monotonic()
        self._policy_at = None
        if rows:
            metrics |= await self._crew.step(rows, learning_rate(self._settings, step, self._total))
        updated = time.monotonic()
        await self._crew.sync(step)
        tokens = sum(len(row.tokens) for row in rows)
        took = time.monotonic() - began
        metrics |= {
            "timing_s/update_actor": updated - updating,
            "timing_s/sync": time.monotonic() - updated,
            "timing_s/step": took,
            "perf/throughput": tokens / took,
            "training/global_step": float(step),
            "training/epoch": float(state.cursor.epoch),
        }
        # An optimiser step takes long, and the run may have gone on elsewhere meanwhile.
        self._fence.check()
        records.write(step, metrics, collected.groups)
        self._policy_at = step
        self._context.progress.update("training", step, self._total, unit="steps", message=headline(metrics))
        return State(step=step, cursor=cursor, settings_sha256=settings_sha256(self._settings), **records.positions())

    def _collecting(self, step: int) -> collector.Report:
        def report(scored: int, of: int) -> None:
            now = f"step {step}: {scored} of {of} responses scored"
            self._context.progress.update("training", step - 1, self._total, unit="steps", message=now)

        return report

    async def _or_drain(self, work: Awaitable[T]) -> T:
        return await unless_draining(work, self._drain, self._fence.check)

    async def _save_if_the_policy_lives(self, state: State) -> None:
        try:
            await self._save(state)
        except workers.WorkerLost as error:
            print(f"step {state.step} is not saved: {error}", file=sys.stderr, flush=True)

    async def _save(self, state: State) -> None:
        if state.step == self._saved:
            return
        self._fence.check()
        began = time.monotonic()
        root = self._context.run.checkpoints
        folder = checkpoint.begin(root, state.step)
        await self._crew.save(folder)
        path = checkpoint.commit(folder, state, self._context.generation, self._fence.check)
        self._saved = state.step
        keep = self._settings.checkpoint
        pruned = checkpoint.prune(root, keep_last=keep.keep_last, keep_every=keep.keep_every)
        took = round(time.monotonic() - began, 3)
        self._context.ledger.append(
            "checkpoint_committed", step=state.step, path=path.name, seconds=took, pruned=pruned
        )


def headline(metrics: dict[str, float]) -> str:
    """Return the numbers a person watches, in one short line."""
    shown = {
        "reward": "critic/score/mean",
        "acc": "reward/accuracy",
        "vis": "reward/visual_perception",
        "len": "response_length/mean",
        "s/step": "timing_s/step",
    }
    return "  ".join(f"{label} {metrics[name]:.2f}" for label, name in shown.items() if name in metrics)


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
