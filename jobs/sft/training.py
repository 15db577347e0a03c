"""Fine-tuning of real models: step after step on a ``Learner``, saved as training's checkpoints are, and resumed.

Which examples a step sees follows from the seed and its number alone, and weights and moments from the newest
verified checkpoint, so a resumed training equals an undisturbed one; on the CPU bit for bit.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from jobs import vlm
from jobs.entry import Context, Drain
from jobs.fence import Fence
from jobs.grpo import checkpoint
from jobs.grpo.checkpoint import MODEL_FOLDER, State
from jobs.grpo.rollout import TrainingRow
from jobs.sft import learner
from jobs.sft.conversations import Conversation
from jobs.sft.learner import Learner
from jobs.sft.loop import learning_rate, order
from jobs.sft.settings import Settings, steps
from orchestrator.errors import Problem, all_at_once
from orchestrator.files import PRIVATE_FILE

LOG = "sft.jsonl"
CHECKPOINTS = "checkpoints"
SAMPLED_BY_NO_ENGINE = -1
"""As a row's version: there is no engine whose probabilities could be compared."""


class Training:
    """One role's fine-tuning in one folder."""

    def __init__(
        self, context: Context, settings: Settings, conversations: Sequence[Conversation], folder: Path, drain: Drain
    ) -> None:
        """Encode all replies.

        Raises:
            InputError: A conversation has several turns, or is longer than ``max_tokens``; all are listed.
        """
        self._context = context
        self._settings = settings
        self._drain = drain
        self._fence = Fence(context.run.ledger, context.generation)
        self._root = folder / CHECKPOINTS
        self._log = folder / LOG
        self._rows = rows(settings, conversations)
        self._total = steps(settings, len(conversations))
        self._sha256 = settings_sha256(settings, conversations)
        self._losses: list[float] = []

    async def run(self) -> Path | None:
        """Train what is left; return the model's folder, or None if asked to stop, with all steps so far saved.

        Raises:
            ConflictError: The folder holds a training with other settings or data; or a newer attempt has begun.
        """
        self._fence.check()
        self._root.parent.mkdir(parents=True, exist_ok=True)
        found = checkpoint.newest(self._root)
        if found is not None:
            checkpoint.require_same_settings(found.state, self._sha256, found.folder)
        state = found.state if found else State(settings_sha256=self._sha256)
        self._cut_log(state.metrics_bytes)
        if state.step < self._total:
            self._context.progress.update("starting workers", state.step, self._total, unit="steps")
            learns = await learner.start(self._context, self._settings, found.folder if found else None)
            try:
                state = await self._train(learns, state)
            finally:
                learns.close()
        if state.step < self._total:
            return None
        return self._root / checkpoint.folder_name(state.step) / MODEL_FOLDER

    async def _train(self, learns: Learner, state: State) -> State:
        batches = self._batches(state.step)
        saved = state.step
        for step in range(state.step + 1, self._total + 1):
            if self._drain.requested:
                break
            rate = learning_rate(self._settings, step, self._total)
            metrics = await learns.step(next(batches), rate)
            self._fence.check()
            self._report(step, metrics["actor/pg_loss"], rate)
            state = State(step=step, settings_sha256=self._sha256, metrics_bytes=self._log.stat().st_size)
            if step % self._settings.checkpoint.every_steps == 0 or step == self._total:
                await self._save(learns, state)
                saved = step
        if state.step > saved:
            self._context.progress.update("draining", message=f"saving step {state.step}")
            await self._save(learns, state)
        return state

    async def _save(self, learns: Learner, state: State) -> None:
        folder = checkpoint.begin(self._root, state.step)
        await learns.snapshot()
        digests = await learns.write(folder)
        self._fence.check()
        await asyncio.to_thread(checkpoint.commit, folder, state, self._context.generation, self._fence.check, digests)
        keep = self._settings.checkpoint
        checkpoint.prune(self._root, keep_last=keep.keep_last, keep_every=keep.keep_every)

    def _batches(self, done: int) -> Any:
        size = self._settings.batch
        indices = islice(order(len(self._rows), self._settings.seed), done * size, None)
        while True:
            yield [self._rows[index] for index in islice(indices, size)]

    def _cut_log(self, size: int) -> None:
        self._log.touch(mode=PRIVATE_FILE)
        os.truncate(self._log, min(size, self._log.stat().st_size))

    def _report(self, step: int, loss: float, rate: float) -> None:
        if step % self._settings.log_every == 0 or step == self._total:
            with self._log.open("a", encoding="utf-8") as log:
                log.write(json.dumps({"step": step, "loss": loss, "lr": rate}) + "\n")
        self._losses = [*self._losses[-self._settings.log_every + 1 :], loss]
        self._context.progress.update("fine-tuning", step, self._total, unit="steps", message=f"loss {loss:.3f}")

    @property
    def loss(self) -> float | None:
        """Mean loss of the latest steps that this process made; None if it made none."""
        return sum(self._losses) / len(self._losses) if self._losses else None


def rows(settings: Settings, conversations: Sequence[Conversation]) -> list[TrainingRow]:
    """Return a row for each conversation, the token that ends a turn behind its reply.

    Raises:
        InputError: One has several turns, or is longer than ``max_tokens``; all are listed.
    """
    processor = vlm.load_processor(settings.model)
    problems: list[Problem] = []
    found: list[TrainingRow] = []
    for index, conversation in enumerate(conversations):
        if len(conversation.messages) > 1:
            problems.append(
                Problem(
                    place=f"row {index}",
                    fact=f"It has {len(conversation.messages)} messages, and with 'policy' a row is one turn.",
                    way_out="Leave 'policy' out, or split the conversation.",
                )
            )
            continue
        row = _row(processor, conversation, index)
        # Image tokens are not counted here; a prompt with images is longer than its text.
        if len(row.tokens) > settings.max_tokens:
            problems.append(
                Problem(
                    place=f"row {index}",
                    fact=f"Its reply has {len(row.tokens)} tokens, more than max_tokens={settings.max_tokens}.",
                    way_out="Raise that.",
                )
            )
        found.append(row)
    if problems:
        raise all_at_once(settings.path, problems)
    return found


def settings_sha256(settings: Settings, conversations: Sequence[Conversation]) -> str:
    """Return a digest of what decides the steps: all but where files lie, how it is spread, and when it is saved."""
    kept = settings.model_dump_json(
        exclude={
            "model": True,
            "path": True,
            "checkpoint": True,
            "ray": True,
            "ray_start_timeout_s": True,
            "log_every": True,
            "policy": {"timeout_s", "backend", "ranks", "zero_stage", "offload", "max_skipped", "attention"},
        }
    )
    digest = hashlib.sha256(kept.encode())
    for conversation in conversations:
        digest.update(repr((conversation.messages, conversation.response)).encode())
        for image in conversation.images:
            digest.update(hashlib.sha256(image).digest())
    return digest.hexdigest()


def _row(processor: Any, conversation: Conversation, index: int) -> TrainingRow:
    reply = vlm.tokenizer(processor)(conversation.response, add_special_tokens=False)["input_ids"]
    tokens = (*reply, vlm.end_id(processor))
    return TrainingRow(
        example=str(index),
        text=conversation.messages[-1][1],
        images=conversation.images,
        tokens=tokens,
        logprobs=(0.0,) * len(tokens),
        advantage=1.0,
        version=SAMPLED_BY_NO_ENGINE,
    )
