"""The policy in one torch process: log-probabilities, optimiser steps, its part of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from jobs import vlm
from jobs.grpo import algo
from jobs.grpo.checkpoint import MODEL_FOLDER, OPTIMIZER_FILE
from jobs.grpo.engine import device, tempered_log_softmax
from jobs.grpo.rollout import TrainingRow
from jobs.grpo.settings import Settings


class WeightsDiffer(RuntimeError):
    """Engine and trainer give the sampled tokens different probabilities: a weight sync went wrong."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What one optimiser step averages over, counted before its first backward."""

    rows: int
    tokens: int


class TorchPolicy:
    """Master weights in float32, forward in the settings' dtype, AdamW. No rank but this one."""

    def __init__(self, settings: Settings, model: str) -> None:
        self.settings = settings
        self.processor = vlm.load_processor(model)
        self.model = vlm.load_model(model, dtype="float32", device=device())
        self.reference = self._reference()
        self._banned = vlm.banned_ids(self.processor)
        self._prompts: dict[str, vlm.Prompt] = {}
        if settings.policy.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.policy.learning_rate, weight_decay=settings.policy.weight_decay
        )

    def _reference(self) -> Any:
        if self.settings.algorithm.kl_coefficient == 0:
            return None
        # The start model, also after a resume, where `model` is a checkpoint.
        return vlm.load_model(self.settings.model, dtype="float32", device=device(), trainable=False)

    def weights(self) -> dict[str, Tensor]:
        """Return all weights on the CPU, for an engine's ``load_weights``."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self.model.state_dict().items()}

    def load_optimizer(self, folder: Path) -> None:
        """Continue with the optimiser's moments of a verified checkpoint."""
        moments = load_file(folder / OPTIMIZER_FILE)
        self.optimizer.load_state_dict(_optimizer_state(self.optimizer, self._names(), moments))

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face folder and the optimiser's moments below ``folder``."""
        target = folder / MODEL_FOLDER
        self.model.save_pretrained(target)
        self.processor.save_pretrained(target)
        save_file(dict(_moments(self.optimizer, self._names())), folder / OPTIMIZER_FILE)

    def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        """Take the optimiser steps of one batch and return their metrics, named as verl names them.

        Without a KL term a row whose advantage is 0 adds nothing to the gradient, so it is counted
        in the denominators and not computed; entropy and clipping are means over the other rows. A
        batch of such rows only makes no optimiser step.

        Raises:
            WeightsDiffer: The engine that sampled ``rows`` did not have this policy's weights.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        whole = Whole(rows=len(rows), tokens=sum(len(row.tokens) for row in rows))
        teaching = [row for row in rows if row.advantage != 0 or self.reference is not None]
        metrics = {"actor/lr": learning_rate, "actor/rows": float(len(teaching)), "actor/skipped": 1.0}
        if not teaching:
            return metrics
        old: list[Tensor | None] = [None] * math.ceil(len(teaching) / self.settings.policy.micro_batch)
        for epoch in range(self.settings.algorithm.epochs_per_batch):
            metrics |= self._epoch(teaching, whole, old, first=epoch == 0)
        return metrics

    def _epoch(
        self, rows: Sequence[TrainingRow], whole: Whole, old: list[Tensor | None], *, first: bool
    ) -> dict[str, float]:
        tokens = sum(len(row.tokens) for row in rows)
        sums: dict[str, float] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for index, micro in enumerate(_micro_batches(rows, self.settings.policy.micro_batch)):
            logp_NT, entropy_NT, mask_NT = self._logprobs(self.model, micro)
            if first:
                old[index] = logp_NT.detach()
                _add(sums, self._engine_difference(micro, logp_NT.detach(), mask_NT))
            self._loss(micro, logp_NT, old[index], mask_NT, whole, sums).backward()
            _add(sums, {"entropy": float((entropy_NT * mask_NT).sum())})
        if first:
            self._same_weights(sums["engine_difference"] / max(tokens, 1))
        norm, skipped = self._optimizer_step()
        return _metrics(sums, tokens, norm, skipped, first=first)

    def _loss(
        self,
        micro: Sequence[TrainingRow],
        logp_NT: Tensor,
        old_NT: Tensor | None,
        mask_NT: Tensor,
        whole: Whole,
        sums: dict[str, float],
    ) -> Tensor:
        algorithm = self.settings.algorithm
        assert old_NT is not None
        advantages_N = torch.tensor([row.advantage for row in micro], device=logp_NT.device)
        parts = algo.policy_loss(
            logp_NT,
            old_NT,
            advantages_N,
            clip_low=algorithm.clip_low,
            clip_high=algorithm.clip_high,
            dual_clip=algorithm.dual_clip,
        )
        weights_NT = algo.token_weights(
            mask_NT,
            algorithm.aggregation,
            max_tokens=self.settings.engine.max_new_tokens,
            rows=whole.rows,
            tokens=whole.tokens,
        )
        loss_NT = parts.loss
        if self.reference is not None:
            with torch.no_grad():
                reference_NT, _, _ = self._logprobs(self.reference, micro)
            kl_NT = algo.kl(logp_NT, reference_NT, algorithm.kl)
            loss_NT = loss_NT + algorithm.kl_coefficient * kl_NT
            _add(sums, {"kl": float((kl_NT.detach() * mask_NT).sum())})
        clipped = (parts.clipped_low | parts.clipped_high) * mask_NT
        pg_loss = float((weights_NT * parts.loss.detach()).sum())
        _add(sums, {"pg_loss": pg_loss, "clipped": float(clipped.sum())})
        return (weights_NT * loss_NT).sum()

    def _logprobs(self, model: Any, micro: Sequence[TrainingRow]) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probability, entropy and mask of every completion token, each ``[N, T]``."""
        prompts = [self._prompt(row) for row in micro]
        batch = vlm.pad_sequences(prompts, [list(row.tokens) for row in micro], vlm.pad_id(self.processor))
        inputs = {name: value.to(model.device) for name, value in batch.inputs.items()}
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.settings.policy.dtype == "bfloat16"):
            logits = model(**inputs, use_cache=False).logits
        completion_NT, mask_NT = _completion_positions(prompts, micro, logits.device)
        # The logits at position p predict the token at p + 1.
        picked_NTV = torch.take_along_dim(logits, (completion_NT - 1).unsqueeze(-1), dim=1)
        logp_NTV = tempered_log_softmax(picked_NTV, self._banned, self.settings.engine.temperature)
        tokens_NT = torch.take_along_dim(inputs["input_ids"], completion_NT, dim=1)
        logp_NT = logp_NTV.gather(-1, tokens_NT.unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            entropy_NT = torch.special.entr(logp_NTV.detach().exp()).sum(-1)
        # Padding may hold a banned token, whose -inf would make 0 * -inf a NaN.
        return logp_NT.masked_fill(mask_NT == 0, 0.0), entropy_NT, mask_NT

    def _engine_difference(self, micro: Sequence[TrainingRow], logp_NT: Tensor, mask_NT: Tensor) -> dict[str, float]:
        engine_NT = torch.zeros_like(logp_NT)
        for index, row in enumerate(micro):
            engine_NT[index, : len(row.logprobs)] = torch.tensor(row.logprobs, device=logp_NT.device)
        return {"engine_difference": float(((logp_NT - engine_NT).abs() * mask_NT).sum())}

    def _same_weights(self, difference: float) -> None:
        policy = self.settings.policy
        tolerance = policy.logprob_tolerance or (1e-3 if policy.dtype == "float32" else 0.05)
        if not difference <= tolerance:
            raise WeightsDiffer(
                f"weight sync: log-probabilities of engine and trainer differ by {difference:.4g} a token, "
                f"tolerance {tolerance:g}. The engine does not have the trainer's weights, or bans other tokens."
            )

    def _optimizer_step(self) -> tuple[float, bool]:
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.policy.max_grad_norm))
        if not math.isfinite(norm):
            return norm, True
        self.optimizer.step()
        return norm, False

    def _prompt(self, row: TrainingRow) -> vlm.Prompt:
        if row.example not in self._prompts:
            if len(self._prompts) > 4096:
                self._prompts.clear()
            self._prompts[row.example] = vlm.encode(self.processor, row.text, row.images)
        return self._prompts[row.example]

    def _names(self) -> list[str]:
        return [name for name, _ in self.model.named_parameters()]


def _completion_positions(
    prompts: Sequence[vlm.Prompt], rows: Sequence[TrainingRow], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return where each completion's tokens stand in its padded row, and their mask, each ``[N, T]``."""
    longest = max(len(row.tokens) for row in rows)
    starts_N1 = torch.tensor([[len(prompt.input_ids)] for prompt in prompts], device=device)
    lengths_N1 = torch.tensor([[len(row.tokens)] for row in rows], device=device)
    offsets_1T = torch.arange(longest, device=device).unsqueeze(0)
    mask_NT = (offsets_1T < lengths_N1).float()
    return starts_N1 + torch.minimum(offsets_1T, lengths_N1 - 1), mask_NT


def _micro_batches(rows: Sequence[TrainingRow], size: int) -> Iterator[Sequence[TrainingRow]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _add(sums: dict[str, float], more: dict[str, float]) -> None:
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value


def _metrics(sums: dict[str, float], tokens: int, norm: float, skipped: bool, *, first: bool) -> dict[str, float]:
    per_token = {
        "actor/entropy": sums["entropy"] / max(tokens, 1),
        "actor/pg_clipfrac": sums["clipped"] / max(tokens, 1),
    }
    if "kl" in sums:
        per_token["actor/kl_loss"] = sums["kl"] / max(tokens, 1)
    if first:
        per_token["actor/engine_logprob_difference"] = sums["engine_difference"] / max(tokens, 1)
    return per_token | {
        "actor/pg_loss": sums["pg_loss"],
        "actor/grad_norm": norm if math.isfinite(norm) else -1.0,
        "actor/skipped": float(skipped),
    }


def _moments(optimizer: torch.optim.Optimizer, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield AdamW's state as named tensors: safetensors, because a pickle could run code."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, parameter in zip(names, parameters, strict=True):
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"{key}/{name}", torch.as_tensor(value).detach().to("cpu", copy=True).contiguous()


def _optimizer_state(optimizer: torch.optim.Optimizer, names: list[str], moments: dict[str, Tensor]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    position = {name: index for index, name in enumerate(names)}
    for key, value in moments.items():
        kind, _, name = key.partition("/")
        state.setdefault(position[name], {})[kind] = value
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
