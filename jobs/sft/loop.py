"""The training loop: batches of conversations in, an ordinary Hugging Face folder out.

The loss of one step is the mean over all reply tokens of its batch, whatever the micro-batches:
their sums are divided by one number, known before the first backward. Prompts teach nothing unless
``prompt_weight`` says so.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import torch
from torch import Tensor

from jobs import vlm
from jobs.entry import Drain
from jobs.sft.conversations import Conversation
from jobs.sft.settings import Settings, steps
from orchestrator.errors import InputError
from orchestrator.files import sync_folder
from orchestrator.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Row:
    """One conversation in tokens; the reply ends with the token that ends a turn."""

    prompt: vlm.Prompt
    reply: list[int]


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What one step averages over, counted before its first backward. A prompt's first token is not foretold."""

    reply_tokens: int
    prompt_tokens: int


def train(
    settings: Settings, conversations: Sequence[Conversation], folder: Path, progress: Progress, drain: Drain
) -> float | None:
    """Train and write the model to ``folder``; return the mean loss of the last ``log_every`` steps.

    The folder appears whole or not at all. A drained training returns None and leaves nothing: it
    starts anew next time.

    Raises:
        InputError: A conversation is longer than ``max_tokens``.
    """
    progress.update("loading model")
    torch.manual_seed(settings.seed)
    processor = vlm.load_processor(settings.model)
    model = vlm.load_model(settings.model, device="cuda" if torch.cuda.is_available() else "cpu")
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, settings.beta2), weight_decay=settings.weight_decay)
    folder.parent.mkdir(parents=True, exist_ok=True)
    losses: list[float] = []
    total = steps(settings, len(conversations))
    with (folder.parent / "sft.jsonl").open("w", encoding="utf-8") as log:
        for step, rows in enumerate(_batches(settings, conversations, processor), 1):
            if drain.requested:
                return None
            rate = learning_rate(settings, step, total)
            losses.append(_step(model, optimizer, rows, rate, settings, vlm.pad_id(processor)))
            _report(step, total, losses, rate, settings, log, progress)
    _save(model, processor, folder)
    return sum(losses[-settings.log_every :]) / len(losses[-settings.log_every :])


def learning_rate(settings: Settings, step: int, total: int) -> float:
    """Return the rate of a step, counted from 1. The last step's is small, not 0: it shall teach too."""
    policy = settings.policy
    highest = policy.learning_rate if policy else settings.learning_rate
    schedule = policy.schedule if policy else settings.schedule
    warmup = round(policy.warmup_ratio * total) if policy else settings.warmup_steps
    if step <= warmup:
        return highest * step / warmup
    done = (step - 1 - warmup) / max(1, total - warmup)
    shape = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
    return highest * shape[schedule]


def _batches(settings: Settings, conversations: Sequence[Conversation], processor: Any) -> Iterator[list[Row]]:
    """Yield the batches of all steps; every pass over the conversations has its own order."""
    known: dict[int, Row] = {}
    indices = order(len(conversations), settings.seed)
    for _ in range(steps(settings, len(conversations))):
        rows = []
        for index in (next(indices) for _ in range(settings.batch)):
            if index not in known:
                known[index] = _row(processor, conversations[index], index, settings.max_tokens)
            rows.append(known[index])
        yield rows


def order(number: int, seed: int) -> Iterator[int]:
    """Yield the examples' indices without end, every pass in an order of its own."""
    epoch = 0
    while True:
        indices = list(range(number))
        random.Random(f"{seed}/{epoch}").shuffle(indices)
        yield from indices
        epoch += 1


def _row(processor: Any, conversation: Conversation, index: int, max_tokens: int) -> Row:
    if conversation.images:
        prompt = vlm.encode(processor, conversation.messages[-1][1], conversation.images)
    else:
        messages = [{"role": role, "content": content} for role, content in conversation.messages]
        prompt = vlm.encode_chat(processor, messages)
    reply = vlm.tokenizer(processor)(conversation.response, add_special_tokens=False)["input_ids"]
    tokens = len(prompt.input_ids) + len(reply) + 1
    if tokens > max_tokens:
        raise InputError(f"row {index}: It has {tokens} tokens, more than max_tokens={max_tokens}. Raise that.")
    return Row(prompt=prompt, reply=[*reply, vlm.end_id(processor)])


def _step(
    model: Any, optimizer: torch.optim.Optimizer, rows: Sequence[Row], rate: float, settings: Settings, pad: int
) -> float:
    whole = Whole(
        reply_tokens=sum(len(row.reply) for row in rows),
        prompt_tokens=sum(len(row.prompt.input_ids) - 1 for row in rows),
    )
    total = 0.0
    optimizer.zero_grad(set_to_none=True)
    for first in range(0, len(rows), settings.micro_batch):
        loss, reply = _loss(model, rows[first : first + settings.micro_batch], pad, settings, whole)
        loss.backward()
        total += float(reply.detach())
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
    if not torch.isfinite(norm):
        # One such step would turn every weight into NaN.
        raise FloatingPointError(f"The gradient's norm is {norm}; the loss was {total}. Lower learning_rate.")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return total


def _loss(model: Any, rows: Sequence[Row], pad: int, settings: Settings, whole: Whole) -> tuple[Tensor, Tensor]:
    """Return these rows' share of the batch's loss, and the part of it that replies make up."""
    batch = vlm.pad_sequences([row.prompt for row in rows], [row.reply for row in rows], pad, model.device)
    prompts_teach = settings.prompt_weight > 0 and all(row.prompt.pixel_values is None for row in rows)
    # Logits are the largest tensor of a real model: keep those from the first reply on.
    shortest = 1 if prompts_teach else min(len(row.prompt.input_ids) for row in rows)
    kept = batch.completion_mask.shape[1] - shortest + 1
    with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.dtype == "bfloat16"):
        logits = model(**batch.inputs, use_cache=False, logits_to_keep=kept).logits[:, :-1]
    mask = batch.completion_mask[:, -kept + 1 :]
    targets = batch.inputs["input_ids"][:, -kept + 1 :]
    reply = _cross_entropy(logits, targets, mask) / whole.reply_tokens
    if not prompts_teach:
        return reply, reply
    prompt = _cross_entropy(logits, targets, batch.inputs["attention_mask"][:, -kept + 1 :].bool() & ~mask)
    return reply + settings.prompt_weight * prompt / whole.prompt_tokens, reply


def _cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits[mask].float(), targets[mask], reduction="sum")


def _report(
    step: int, total: int, losses: Sequence[float], rate: float, settings: Settings, log: IO[str], progress: Progress
) -> None:
    if step % settings.log_every == 0 or step == total:
        log.write(json.dumps({"step": step, "loss": losses[-1], "lr": rate}) + "\n")
        log.flush()
    progress.update("fine-tuning", step, total, unit="steps", message=f"loss {losses[-1]:.3f}")


def _save(model: Any, processor: Any, folder: Path) -> None:
    """Write model, tokenizer and processor beside ``folder``, then give the whole its name."""
    beside = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.tmp")
    try:
        model.save_pretrained(beside)
        processor.save_pretrained(beside)
        if folder.exists():
            shutil.rmtree(folder)
        beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    sync_folder(folder.parent)
