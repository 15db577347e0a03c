"""The trainer: step after step, from what is collected to what is recorded and saved.

With ``staleness`` 1 the next step is sampled while this one is judged and trained on, from the weights before it.
Where a checkpoint is due it is not, so a resume, which has those weights only, samples what an undisturbed run does.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Awaitable
from typing import TypeVar

from jobs.entry import Context, Drain
from jobs.fence import Fence
from jobs.grpo import batch, checkpoint, cluster, collector, groups, journal, throughput, workers
from jobs.grpo.checkpoint import State
from jobs.grpo.collector import Collection, Collector
from jobs.grpo.draining import Draining, unless_draining
from jobs.grpo.groups import Collected
from jobs.grpo.prompts import Cursor
from jobs.grpo.records import Records
from jobs.grpo.rollout import TrainingRow
from jobs.grpo.sameness import settings_sha256
from jobs.grpo.saving import Saver
from jobs.grpo.settings import Settings
from jobs.grpo.tracking import Wandb
from jobs.grpo.workers import Workers
from orchestrator.errors import ConflictError

T = TypeVar("T")


def learning_rate(settings: Settings, step: int, total: int) -> float:
    """Return the rate of optimiser step ``step`` (from 1): a linear warm-up, then the schedule.

    The first step's rate is already above 0; in the published code it is 0, so that the first of 275
    steps learns nothing. The last step's is above 0 for the same reason.
    """
    policy = settings.policy
    warmup = round(policy.warmup_ratio * total)
    if step <= warmup:
        return policy.learning_rate * step / warmup
    done = (step - 1 - warmup) / (total - warmup)
    shapes = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return policy.learning_rate * shapes[policy.schedule]


class Trainer:
    """The loop and what it holds on to."""

    def __init__(
        self,
        context: Context,
        settings: Settings,
        drain: Drain,
        fence: Fence,
        total: int,
        crew: Workers,
        collector: Collector,
    ) -> None:
        self._context = context
        self._settings = settings
        self._drain = drain
        self._fence = fence
        self._total = total
        self._crew = crew
        self._collector = collector
        self._examples = {example.id: example for example in collector.examples}
        self._settings_sha256 = settings_sha256(settings)
        nodes = cluster.own(context)
        self._gpus = len(nodes.hosts) * nodes.gpus_per_node
        # Steps that are being collected: this one, and with staleness 1 the next.
        self._collections: dict[int, Collection] = {}
        # The step whose weights the policy has, None while they change; and that of the engines' weights.
        self._policy_at: int | None = None
        self._engines_at = 0
        # A row that the policy has seen, by which engines are tried after a synchronisation.
        self._probe: TrainingRow | None = None
        self._sync_s = 0.0
        self._replayed: list[int] = []

    async def run(self, state: State) -> State:
        """Make steps from ``state`` on and return the last state that is saved, or can be replayed."""
        self._policy_at = self._engines_at = state.step
        self._fence.check()
        saver = Saver(self._context, self._settings.checkpoint, self._crew, self._fence, saved=state.step)
        records = Records(
            self._context.run,
            step=state.step,
            metrics_bytes=state.metrics_bytes,
            rollouts_bytes=state.rollouts_bytes,
            log_rollouts=self._settings.log_rollouts,
            wandb=self._tracker(),
        )
        try:
            while state.step < self._total:
                state = await self._step(state, records, saver)
                if self._is_due(state.step):
                    await saver.save(state)
            self._tell_replayed()
            await saver.settle()
        except Draining:
            await self._save_on_drain(state, saver)
        except (ConflictError, checkpoint.NoSpace):
            raise
        except Exception:
            # Between steps the policy is whole, so an outage of anything else loses no step.
            if self._policy_at == state.step:
                await self._save_if_the_policy_lives(state, saver)
            raise
        finally:
            await self._abandon()
            await saver.close()
            records.close()
        return state

    def _tracker(self) -> Wandb | None:
        wanted = self._settings.wandb
        if wanted is None:
            return None
        return Wandb(wanted, self._context.run.path, config=self._settings.model_dump(mode="json"))

    def _is_due(self, step: int) -> bool:
        return step % self._settings.checkpoint.every_steps == 0 or step == self._total

    async def _step(self, state: State, records: Records, saver: Saver) -> State:
        began = time.monotonic()
        step = state.step + 1
        current = await self._begin(step, state.cursor)
        if self._settings.algorithm.staleness and not self._is_due(step):
            await self._or_drain(current.tokens())
            await self._begin(step + 1, current.cursor)
        waiting = time.monotonic()
        collected = await self._or_drain(current.result())
        unhidden_s = self._unhidden_s(step, waiting)
        del self._collections[step]
        self._note(current, collected)
        kl = await self._kl(collected)
        valued = batch.value(self._settings, collected, kl)
        rows = batch.rows(valued)
        metrics = batch.metrics(collected, valued, kl)
        if unhidden_s is not None:
            metrics["judge/wait_after_gen_s"] = unhidden_s
        updating = time.monotonic()
        self._policy_at = None
        # Without rows too: it is a step all the same, and counted.
        metrics |= await self._crew.step(rows, learning_rate(self._settings, step, self._total))
        self._probe = rows[0] if rows else self._probe
        self._policy_at = step
        metrics |= self._times(began, updating, saver) | {
            "training/global_step": float(step),
            "training/epoch": float(state.cursor.epoch),
            "training/replayed": float(current.journalled),
        }
        metrics |= throughput.rates(batch.tokens(collected), seconds=metrics["timing_s/step"], gpus=self._gpus)
        # An optimiser step takes long, and the run may have gone on elsewhere meanwhile.
        self._fence.check()
        records.write(step, metrics, valued)
        self._context.progress.update("training", step, self._total, unit="steps", message=headline(metrics))
        return State(step=step, cursor=collected.cursor, settings_sha256=self._settings_sha256, **records.positions())

    async def _begin(self, step: int, cursor: Cursor) -> Collection:
        """Return the collection of a step: begun before, from the journal, or begun now with the policy's weights."""
        if step not in self._collections:
            self._collections[step] = self._from_journal(step) or await self._sampled(step, cursor)
        return self._collections[step]

    def _unhidden_s(self, step: int, since: float) -> float | None:
        """Return how long rewards were waited for while the next step was not sampled either; None if it never is."""
        ahead = self._collections.get(step + 1)
        return None if ahead is None else max(0.0, time.monotonic() - max(since, ahead.generated.at))

    async def _sampled(self, step: int, cursor: Cursor) -> Collection:
        self._tell_replayed()
        if self._engines_at != self._policy_at:
            await self._or_drain(self._sync())
        return self._collector.begin(step, cursor, self._collecting(step))

    def _from_journal(self, step: int) -> Collection | None:
        records = journal.read(self._context.run.journal, step, self._settings_sha256)
        collected = groups.from_records(records, self._examples) if records else None
        if collected is None:
            return None
        self._replayed.append(step)
        now = f"step {step} again, from the journal"
        self._context.progress.update("training", step - 1, self._total, unit="steps", message=now)
        return collector.from_journal(step, collected)

    def _tell_replayed(self) -> None:
        if self._replayed:
            self._context.ledger.append("replayed", steps=self._replayed)
            self._replayed = []

    def _note(self, current: Collection, collected: Collected) -> None:
        """Put what a step is about to be made from where a crash cannot take it away."""
        if self._settings.journal and not current.journalled:
            self._fence.check()
            journal.append(self._context.run.journal, current.step, self._settings_sha256, groups.to_records(collected))

    async def _kl(self, collected: Collected) -> list[list[float]] | None:
        """Return every response's KL to the start model if it is part of the reward."""
        algorithm = self._settings.algorithm
        if algorithm.kl_coefficient == 0 or algorithm.kl_in == "loss":
            return None
        rows = batch.unvalued_rows(collected)
        return batch.kl(
            self._settings,
            await self._crew.logprobs(rows),
            await self._crew.logprobs(rows, reference=True),
        )

    async def _sync(self) -> None:
        began = time.monotonic()
        assert self._policy_at is not None, "weights are synchronised between steps"
        tried = self._settings.algorithm.staleness or self._settings.engine.name != "hf"
        # Otherwise the next step tries every row before it learns from any.
        await self._crew.sync(self._policy_at, self._probe if tried else None)
        self._engines_at = self._policy_at
        self._sync_s += time.monotonic() - began

    def _times(self, began: float, updating: float, saver: Saver) -> dict[str, float]:
        sync_s, self._sync_s = self._sync_s, 0.0
        now = time.monotonic()
        return {
            "timing_s/update_actor": now - updating,
            "timing_s/sync": sync_s,
            "timing_s/save_checkpoint": saver.stall_s(),
            "timing_s/step": now - began,
        }

    def _collecting(self, step: int) -> collector.Report:
        def report(scored: int, of: int) -> None:
            now = f"step {step}: {scored} of {of} responses scored"
            self._context.progress.update("training", step - 1, self._total, unit="steps", message=now)

        return report

    async def _or_drain(self, work: Awaitable[T]) -> T:
        return await unless_draining(work, self._drain, self._fence.check)

    async def _abandon(self) -> None:
        for collection in self._collections.values():
            await collection.abandon()
        self._collections = {}

    async def _save_on_drain(self, state: State, saver: Saver) -> None:
        """Leave a state to go on from exactly.

        With staleness 1 the step after an unplanned checkpoint would be sampled from other weights than in an
        undisturbed run, so what is left is the last planned one and the journal.
        """
        await self._abandon()
        self._context.progress.update("draining", message=f"saving step {state.step}")
        if not self._settings.algorithm.staleness:
            await saver.save(state)
        await saver.settle()

    async def _save_if_the_policy_lives(self, state: State, saver: Saver) -> None:
        try:
            await self._save_on_drain(state, saver)
        except workers.WorkerLost as error:
            print(f"step {state.step} is not saved: {error}", file=sys.stderr, flush=True)


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
