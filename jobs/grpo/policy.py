"""The policy, one rank of it: optimiser steps, log-probabilities, weights for engines, its part of a checkpoint.

    step:  rows -> this rank's share -> micro-batches -> forward, loss, backward -> all gradients -> AdamW

Every rank is given all rows of a step and takes its share. The loss is a sum over all rows of all ranks with one
denominator, counted before the first backward, so neither micro-batches nor ranks change the gradient.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jobs import vlm
from jobs.grpo import backends, objective, policy_files, throughput, trainable
from jobs.grpo.backends import shares
from jobs.grpo.backends.shares import MicroBatch
from jobs.grpo.checkpoint import Digest
from jobs.grpo.forward import Batches, ScoringModel
from jobs.grpo.objective import Tokens, Whole
from jobs.grpo.policy_files import Plain, Snapshot, Weights
from jobs.grpo.rollout import TrainingRow
from jobs.grpo.settings import Settings
from orchestrator.errors import RunFailed


class WeightsDiffer(RuntimeError):
    """Engine and trainer give the sampled tokens different probabilities: a weight sync went wrong."""


def tolerance(settings: Settings) -> float:
    """Return how far the log-probabilities of engine and trainer may differ, on average over tokens."""
    policy = settings.policy
    return policy.logprob_tolerance or (1e-3 if policy.dtype == "float32" else 0.05)


def attention(settings: Settings) -> str:
    """Return the attention that the settings come to on this machine."""
    chosen = settings.policy.attention
    if chosen != "auto":
        return chosen
    fast = torch.cuda.is_available() and settings.policy.dtype == "bfloat16" and find_spec("flash_attn") is not None
    return "flash_attention_2" if fast else "sdpa"


class Policy:
    """One rank of the policy. What is called collective is called by all ranks, with the same arguments.

    Attributes:
        version: Optimiser steps behind the weights: one more with every ``step``, brought back by ``load``, and
            corrected by ``weights``. With staleness 1 it tells which rows the engine sampled from older weights.
    """

    def __init__(self, settings: Settings, source: str, *, rank: int = 0, world: int = 1) -> None:
        """Load the model. Collective.

        Args:
            settings: Of the role.
            source: Folder or name of the weights. With LoRA the start model's are taken, whatever is said here.
            rank: Of this process.
            world: Number of ranks. torch.distributed is initialised if it is above 1.
        """
        self.settings = settings
        self.rank = rank
        self.world = world
        self.version = 0
        source = settings.model if settings.policy.lora else source
        self.processor = vlm.load_processor(source)
        self.batches = Batches(self.processor, settings)
        model = vlm.load_model(source, dtype="float32", attention=attention(settings))
        plain = Plain(model, self.processor)
        self._model = trainable.prepare(model, settings.policy, seed=settings.seed)
        self._weights = Weights(plain, self._model, settings.policy.lora)
        self._backend = backends.build(settings, self._scoring(self._model), self._reference(), rank=rank, world=world)
        self._shape = throughput.shape(model.config)
        self._gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        self._skipped_in_a_row = 0
        self._snapshot: Snapshot | None = None

    def step(self, rows: Sequence[TrainingRow], learning_rate: float) -> dict[str, float]:
        """Take the optimiser steps of one batch and return their metrics, named as verl names them. Collective.

        A row that has no gradient is counted in the denominators and not computed. A batch of such rows only makes no
        optimiser step.

        Args:
            rows: Of all ranks.
            learning_rate: Of these steps.

        Returns:
            Metrics of all ranks together, the same on every rank.

        Raises:
            WeightsDiffer: The engine that sampled ``rows`` did not have this policy's weights.
            RunFailed: The gradient was not finite ``max_skipped`` times in a row.
        """
        algorithm = self.settings.algorithm
        whole = objective.counted(rows, algorithm)
        teaching = objective.teaching(rows, algorithm)
        metrics = {"actor/lr": learning_rate, "actor/rows": float(len(teaching)), "actor/skipped": 1.0}
        micros, old = self._plan(teaching)[self.rank], list[Tensor]()
        epochs, began = algorithm.epochs_per_batch if teaching else 0, time.monotonic()
        for _ in range(epochs):
            metrics |= self._epoch(micros, whole, old, learning_rate)
        self.version += 1
        return metrics | self._mfu(teaching * epochs, time.monotonic() - began)

    def _mfu(self, rows: Sequence[TrainingRow], seconds: float) -> dict[str, float]:
        """Return the update's share of what its GPUs can do; nothing on CPUs."""
        if self._gpu is None or not rows:
            return {}
        return throughput.mfu(
            self._shape,
            [self.batches.size(row) for row in rows],
            self.settings.policy,
            seconds=seconds,
            gpus=self.world,
            device=self._gpu,
        )

    @torch.no_grad()
    def logprobs(self, rows: Sequence[TrainingRow], *, reference: bool = False) -> list[tuple[float, ...]]:
        """Return the log-probability of every token of every row, the same on every rank. Collective.

        Args:
            rows: Of all ranks; their own log-probabilities and advantages play no part.
            reference: By the start model instead. There is one if ``algorithm.kl_coefficient`` is above 0.
        """
        plan = self._plan(rows)
        mine = [self._scores(micro, reference) for micro in plan[self.rank]]
        found: dict[int, tuple[float, ...]] = {}
        for micros, scores in zip(plan, self._of_all_ranks(mine), strict=True):
            for micro, values in zip(micros, scores, strict=True):
                if micro.counts:
                    found |= {id(row): value for row, value in zip(micro.rows, values, strict=True)}
        return [found[id(row)] for row in rows]

    def weights(self, version: int | None = None) -> dict[str, Tensor]:
        """Return all weights on the CPU by the names of the plain model, adapters added to what they adapt. Collective.

        Args:
            version: What engines are going to call them.

        Returns:
            On rank 0; the others return {}.
        """
        if version is not None:
            self.version = version
        found: dict[str, Tensor] = {}
        for name in self._weights.sizes:
            value = self._weights.merged(self._backend, name)
            if self.rank == 0:
                found[name] = value.detach().to("cpu", copy=True)
        if self.rank != 0:
            return {}
        plain = self._weights.plain
        return found | {alias: found[name] for alias, name in plain.aliases.items()} | plain.buffers

    def snapshot(self) -> None:
        """Copy this rank's share of weights and moments to the memory of the CPU, for ``write``. Collective."""
        self._snapshot = policy_files.take(self._weights, self._backend, self.version, rank=self.rank, world=self.world)

    def write(self, folder: Path) -> dict[str, Digest]:
        """Write the last snapshot below ``folder`` and let its memory go; return what this rank wrote.

        Not collective, and made to run in another thread while ``step`` goes on.

        Returns:
            Size and SHA-256 of each file, by its path in ``folder``. All are on the disk.
        """
        taken, self._snapshot = self._snapshot, None
        assert taken is not None, "a snapshot is taken before it is written, and written once"
        return policy_files.write(taken, folder, self._weights, self._model, rank=self.rank, world=self.world)

    def load(self, folder: Path) -> None:
        """Continue from a verified checkpoint of the same model, written by any backend with any number of ranks.

        Collective. What is not trained stays as it is.

        Raises:
            InputError: The checkpoint is of another model.
        """
        self._backend.restore(policy_files.read(folder, self._weights))
        self.version = policy_files.version(folder)

    def _scoring(self, model: Any) -> ScoringModel:
        return ScoringModel(
            model,
            banned=vlm.banned_ids(self.processor),
            temperature=self.settings.engine.temperature,
            chunk=self.settings.policy.logprob_chunk,
        )

    def _reference(self) -> ScoringModel | None:
        """Return the start model if it is needed; with LoRA it is the policy's without its adapters."""
        if self.settings.algorithm.kl_coefficient == 0 or self.settings.policy.lora:
            return None
        source, how = self.settings.model, attention(self.settings)
        return self._scoring(vlm.load_model(source, dtype="float32", attention=how, trainable=False))

    def _plan(self, rows: Sequence[TrainingRow]) -> list[list[MicroBatch]]:
        return shares.micro_batches(rows, self.world, self.batches.split, even=self._backend.even)

    def _epoch(
        self, micros: Sequence[MicroBatch], whole: Whole, old: list[Tensor], learning_rate: float
    ) -> dict[str, float]:
        """Take one optimiser step. In the first epoch of a batch ``old`` is empty, and is filled."""
        sums: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        for index, micro in enumerate(micros):
            tokens = self._tokens(micro, old, index)
            loss, parts = objective.loss(
                tokens, whole, self.settings.algorithm, max_new_tokens=self.settings.engine.max_new_tokens
            )
            self._backend.backward(loss if micro.counts else loss * 0.0, last=index == len(micros) - 1)
            losses.append(loss.detach())
            if micro.counts:
                _add(sums, parts | self._engine_difference(tokens, micro.rows))
        total = self._summed(sums, self._not_finite(micros, losses))
        self._require_same_weights(total)
        norm = self._backend.step(learning_rate)
        return objective.metrics(total) | self._stepped(norm, total)

    def _tokens(self, micro: MicroBatch, old: list[Tensor], index: int) -> Tokens:
        algorithm = self.settings.algorithm
        batch = self.batches.tensors(micro.rows, self._backend.device)
        referred = algorithm.kl_coefficient > 0 and algorithm.kl_in == "loss"
        reference_NT = self._backend.reference(batch) if referred else None
        new_NT, entropy_NT = self._backend.forward(batch, entropy_grad=algorithm.entropy_coefficient > 0)
        if index == len(old):
            old.append(new_NT.detach())
        return Tokens(
            new_NT=new_NT,
            entropy_NT=entropy_NT,
            old_NT=old[index],
            sampler_NT=_padded(micro.rows, new_NT),
            reference_NT=reference_NT,
            mask_NT=objective.row_mask(batch.mask_NT, micro.rows, algorithm),
            advantages_N=torch.tensor([row.advantage for row in micro.rows], device=new_NT.device),
        )

    def _scores(self, micro: MicroBatch, reference: bool) -> list[tuple[float, ...]]:
        batch = self.batches.tensors(micro.rows, self._backend.device)
        logp_NT = self._backend.reference(batch) if reference else self._backend.forward(batch)[0]
        return [tuple(values[: len(row.tokens)]) for row, values in zip(micro.rows, logp_NT.tolist(), strict=True)]

    def _engine_difference(self, tokens: Tokens, rows: Sequence[TrainingRow]) -> dict[str, Tensor]:
        """Return how far the engine was from the trainer on the rows that it sampled from these weights."""
        stale = self.settings.algorithm.staleness > 0
        fresh_N1 = tokens.new_NT.new_tensor([[float(not stale or row.version >= self.version)] for row in rows])
        mask_NT = tokens.mask_NT * fresh_N1
        difference_NT = (tokens.old_NT - tokens.sampler_NT).abs()
        return {"fresh_tokens": mask_NT.sum(), "fresh_difference": (difference_NT * mask_NT).sum()}

    def _require_same_weights(self, sums: Mapping[str, float]) -> None:
        if sums["not_finite"]:
            return
        difference = sums["fresh_difference"] / max(sums["fresh_tokens"], 1)
        if not difference <= tolerance(self.settings):
            raise WeightsDiffer(
                f"weight sync: log-probabilities of engine and trainer differ by {difference:.4g} a token, "
                f"tolerance {tolerance(self.settings):g}. The engine does not have the trainer's weights, or bans "
                "other tokens."
            )

    def _not_finite(self, micros: Sequence[MicroBatch], losses: Sequence[Tensor]) -> float:
        """Return how many of this rank's losses are not finite, and say which rows they are of."""
        bad = [m for m, loss in zip(micros, losses, strict=True) if m.counts and not math.isfinite(float(loss))]
        for micro in bad:
            examples = ", ".join(sorted({row.example for row in micro.rows}))
            print(f"policy: the loss of a micro-batch of {examples} is not finite.", file=sys.stderr, flush=True)
        return float(len(bad))

    def _summed(self, sums: Mapping[str, Tensor], not_finite: float) -> dict[str, float]:
        """Return the sums over all ranks."""
        own = {name: float(value) for name, value in sums.items()} | {"not_finite": not_finite}
        total: dict[str, float] = {}
        for each in self._of_all_ranks(own):
            for name, value in each.items():
                total[name] = total.get(name, 0.0) + value
        return total

    def _of_all_ranks(self, own: Any) -> list[Any]:
        if self.world == 1:
            return [own]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, own)
        return found

    def _stepped(self, norm: float, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics of a step that was made, or skipped because ``norm`` is not finite."""
        skipped = not math.isfinite(norm)
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if self._skipped_in_a_row >= self.settings.policy.max_skipped:
            raise RunFailed(
                f"policy: the gradients of {self._skipped_in_a_row} optimiser steps in a row were not finite, and the "
                "steps were skipped; policy.max_skipped is the limit. The weights are those before. Lower "
                "policy.learning_rate, or look at the examples that were named above."
            )
        return {
            "actor/grad_norm": -1.0 if skipped else norm,
            "actor/skipped": float(skipped),
            "actor/not_finite_micro_batches": sums["not_finite"],
        }


def _add(sums: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    for name, value in more.items():
        sums[name] = sums[name] + value if name in sums else value


def _padded(rows: Sequence[TrainingRow], like_NT: Tensor) -> Tensor:
    """Return the engine's log-probabilities, ``[N, T]``, 0 behind a completion's end."""
    values_NT = torch.zeros_like(like_NT, requires_grad=False)
    for index, row in enumerate(rows):
        values_NT[index, : len(row.logprobs)] = torch.tensor(row.logprobs, device=like_NT.device)
    return values_NT
