"""From rows to log-probabilities: the tensors of a micro-batch, and the model that scores them.

Three facts keep images and tokens together. A prompt has one image token for every merged patch, which
``vlm.encode`` checks; as many as the vision tower has made embeddings, which the model's own forward
checks; and nothing here cuts a row, so no cut goes through an image.

Shapes: N rows, T tokens of the longest completion, B sequences of L tokens, which is one if rows are packed,
M tokens of all completions, V the vocabulary, H the width of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jobs import vlm
from jobs.grpo import logprobs, packing
from jobs.grpo.rollout import TrainingRow
from jobs.grpo.settings import Settings
from jobs.grpo.throughput import RowSize
from jobs.grpo.trainable import plain

PROMPTS_KEPT = 4096


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The tensors of one micro-batch, all on the model's device.

    Attributes:
        inputs: Keyword arguments of the model's forward, padded or, without ``attention_mask``, packed.
        places_NT: Where in the flattened ``[B * L]`` stand the logits that foretell each token of a completion. Behind
            a completion's end its last place is repeated.
        tokens_NT: The tokens; behind its end a completion's last one is repeated.
        mask_NT: 1 on a completion's tokens, 0 behind its end; float.
    """

    inputs: dict[str, Tensor]
    places_NT: Tensor
    tokens_NT: Tensor
    mask_NT: Tensor


class Batches:
    """Makes micro-batches of rows. Keeps the prompts it has encoded."""

    def __init__(self, processor: Any, settings: Settings) -> None:
        self._processor = processor
        self._policy = settings.policy
        self._prompts: dict[str, vlm.Prompt] = {}

    def split(self, rows: Sequence[TrainingRow]) -> list[list[TrainingRow]]:
        """Return the rows in micro-batches, in their order, the same ones for the same rows."""
        budget = self._policy.micro_batch_tokens
        if budget is None:
            return packing.by_rows(rows, self._policy.micro_batch)
        lengths = [len(self._prompt(row).input_ids) + len(row.tokens) for row in rows]
        return packing.by_tokens(rows, lengths, budget, padded=not self._policy.packing)

    def tensors(self, rows: Sequence[TrainingRow], device: str | torch.device) -> Batch:
        """Return the rows as tensors."""
        prompts = [self._prompt(row) for row in rows]
        inputs = vlm.pad_sequences(prompts, [row.tokens for row in rows], vlm.pad_id(self._processor)).inputs
        firsts_N = torch.arange(len(rows)) * inputs["input_ids"].shape[1]
        if self._policy.packing:
            lengths_N = inputs["attention_mask"].sum(-1)
            firsts_N = lengths_N.cumsum(0) - lengths_N
            inputs = packing.pack(inputs)
        starts_N = firsts_N + torch.tensor([len(prompt.input_ids) for prompt in prompts])
        completion_NT, mask_NT = _completions(starts_N, [len(row.tokens) for row in rows])
        tokens_NT = inputs["input_ids"].flatten()[completion_NT]
        return Batch(
            inputs={name: value.to(device) for name, value in inputs.items()},
            # The logits at place p foretell the token at p + 1.
            places_NT=(completion_NT - 1).to(device),
            tokens_NT=tokens_NT.to(device),
            mask_NT=mask_NT.to(device),
        )

    def size(self, row: TrainingRow) -> RowSize:
        """Return what of a row decides its FLOPs."""
        prompt = self._prompt(row)
        grids = [] if prompt.image_grid_thw is None else prompt.image_grid_thw.tolist()
        return RowSize(
            tokens=len(prompt.input_ids) + len(row.tokens),
            completion=len(row.tokens),
            images=tuple((t, h, w) for t, h, w in grids),
        )

    def _prompt(self, row: TrainingRow) -> vlm.Prompt:
        if row.example not in self._prompts:
            if len(self._prompts) >= PROMPTS_KEPT:
                self._prompts.clear()
            self._prompts[row.example] = vlm.encode(self._processor, row.text, row.images)
        return self._prompts[row.example]


class ScoringModel(nn.Module):
    """A language model that answers with log-probabilities of given tokens instead of logits.

    What shards a model (FSDP2, DeepSpeed) is put around this module, so every parameter is used within ``forward``.

    Attributes:
        model: Of Hugging Face, or of peft around one.
    """

    def __init__(self, model: Any, *, banned: Sequence[int], temperature: float, chunk: int | None) -> None:
        """Wrap ``model``; with ``chunk`` its head becomes a ``ChunkedHead``.

        Args:
            model: Changed in place, if at all.
            banned: Tokens that are never sampled.
            temperature: Of the sampler.
            chunk: Tokens whose logits exist at a time; None is all, prompts included.
        """
        super().__init__()
        self.model = model
        self._banned = tuple(banned)
        self._temperature = temperature
        self._chunk = chunk
        if chunk is not None:
            logprobs.ChunkedHead.put(plain(model))

    def forward(self, batch: Batch, *, entropy_grad: bool = False) -> tuple[Tensor, Tensor]:
        """Return log-probability and entropy of every completion token, 0 where there is none.

        Args:
            batch: On the model's device.
            entropy_grad: Give the entropy a gradient. Without, it is detached.

        Returns:
            Both of shape ``[N, T]``, in nats, at the sampler's temperature and without its banned tokens.
        """
        inputs = batch.inputs
        if "attention_mask" not in inputs:
            inputs = packing.with_model_positions(plain(self.model).model, inputs)
        score = self._whole if self._chunk is None else self._in_chunks
        logp_NT, entropy_NT = score(inputs, batch, entropy_grad)
        # Behind a completion's end may stand a banned token, whose -inf would make 0 * -inf a NaN.
        absent_NT = batch.mask_NT == 0
        return logp_NT.masked_fill(absent_NT, 0.0), entropy_NT.masked_fill(absent_NT, 0.0)

    def _whole(self, inputs: dict[str, Tensor], batch: Batch, entropy_grad: bool) -> tuple[Tensor, Tensor]:
        logits_BLV = self.model(**inputs, use_cache=False).logits
        picked_NTV = logits_BLV.flatten(0, 1).index_select(0, batch.places_NT.flatten())
        return logprobs.of_logits(
            picked_NTV.unflatten(0, batch.places_NT.shape),
            batch.tokens_NT,
            banned=self._banned,
            temperature=self._temperature,
            entropy_grad=entropy_grad,
        )

    def _in_chunks(self, inputs: dict[str, Tensor], batch: Batch, entropy_grad: bool) -> tuple[Tensor, Tensor]:
        assert self._chunk is not None
        model = plain(self.model)
        present_NT = batch.mask_NT.bool()
        hidden_BLH = model.model(**inputs, use_cache=False).last_hidden_state
        hidden_MH = hidden_BLH.flatten(0, 1).index_select(0, batch.places_NT[present_NT])
        scoring = logprobs.Scoring(self._banned, self._temperature, self._chunk, entropy_grad)
        found = model.get_output_embeddings()(hidden_MH, batch.tokens_NT[present_NT], scoring=scoring)
        logp_NT, entropy_NT = (_spread(values_M, present_NT) for values_M in found)
        return logp_NT, entropy_NT


def _completions(starts_N: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return where each completion's tokens stand, and their mask, each ``[N, T]``."""
    lengths_N1 = torch.tensor(lengths).unsqueeze(-1)
    offsets_1T = torch.arange(max(lengths)).unsqueeze(0)
    mask_NT = (offsets_1T < lengths_N1).float()
    return starts_N.unsqueeze(-1) + torch.minimum(offsets_1T, lengths_N1 - 1), mask_NT


def _spread(values_M: Tensor, present_NT: Tensor) -> Tensor:
    return values_M.new_zeros(present_NT.shape).masked_scatter(present_NT, values_M)
