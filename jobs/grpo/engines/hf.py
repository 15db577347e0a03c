"""Sampling with transformers' ``generate``: each response is handed over the moment it ends.

Sampling is exact and independent of the batch: every row adds Gumbel noise from a generator of its
own to its log-probabilities, and the greedy choice of the sum is a sample of the distribution. So a
response depends on its seed and prompt alone, and a resumed run samples what an undisturbed one did.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from jobs import vlm
from jobs.grpo.engines.prompts import EncodedPrompts
from jobs.grpo.rollout import Request, Sample, TrainingRow
from jobs.grpo.sampling import device, tempered_log_softmax

SHARE_LEFT = 0.5
ROWS_TO_COMPACT = 4
_END = object()


class HfEngine:
    """A copy of the policy that only samples."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        temperature: float,
        max_new_tokens: int,
        batch: int,
        max_prompt_tokens: int,
        keep_special_tokens: bool = False,
    ) -> None:
        self.processor = vlm.load_processor(model)
        self.model = vlm.load_model(model, dtype=dtype, device=device(), trainable=False)
        self.temperature = temperature
        self.batch = batch
        self.version = 0
        self._longest = max_new_tokens
        self._keep_special = keep_special_tokens
        self._banned = vlm.banned_ids(self.processor)
        self._prompts = EncodedPrompts(self.processor, max_prompt_tokens)
        # The folder's own generation settings (top_k, repetition penalty) would make the engine
        # sample from another distribution than the trainer differentiates.
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            eos_token_id=vlm.end_id(self.processor),
            pad_token_id=vlm.pad_id(self.processor),
        )

    def load_weights(self, weights: dict[str, Tensor], version: int) -> None:
        """Replace all weights; ``version`` is written into every sample from now on."""
        self.model.load_state_dict(weights)
        self.version = version

    def sleep(self) -> None:
        """Do nothing: this engine keeps its memory."""

    def wake(self) -> None:
        """Do nothing."""

    @torch.inference_mode()
    def logprobs(self, rows: Sequence[TrainingRow]) -> list[tuple[float, ...]]:
        """Return the log-probabilities of given tokens, one forward pass a row: no padding, few logits in memory."""
        return [self._logprobs(row) for row in rows]

    def _logprobs(self, row: TrainingRow) -> tuple[float, ...]:
        batch = vlm.pad_sequences(
            [self._prompts.of(row)], [list(row.tokens)], vlm.pad_id(self.processor), self.model.device
        )
        # The logits at position p foretell the token at p + 1.
        logits_1TV = self.model(**batch.inputs, use_cache=False, logits_to_keep=len(row.tokens) + 1).logits[:, :-1]
        logp_TV = tempered_log_softmax(logits_1TV[0], self._banned, self.temperature)
        tokens_T1 = torch.tensor(row.tokens, device=logp_TV.device).unsqueeze(-1)
        return tuple(logp_TV.gather(-1, tokens_T1).squeeze(-1).tolist())

    def generate(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """Yield one sample a request, in the order in which they end."""
        for first in range(0, len(requests), self.batch):
            yield from self._generate_batch(requests[first : first + self.batch])

    def _generate_batch(self, requests: Sequence[Request]) -> Iterator[Sample]:
        ended: queue.Queue[Any] = queue.Queue()

        def run() -> None:
            try:
                self._decode(requests, ended.put)
                ended.put(_END)
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that consumes
                ended.put(error)

        thread = threading.Thread(target=run, name="generate", daemon=True)
        thread.start()
        while (item := ended.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
        thread.join()

    @torch.inference_mode()
    def _decode(self, requests: Sequence[Request], emit: Callable[[Sample], None]) -> None:
        """Sample all requests together; whenever few rows are left, go on with those alone."""
        prompts = [self._prompts.of(request) for request in requests]
        inputs = vlm.pad_left(prompts, vlm.pad_id(self.processor), self.model.device)
        width = inputs["input_ids"].shape[1]
        sampling = Sampling([r.seed for r in requests], self._banned, self.temperature)
        watch = RowsEnding(
            len(requests),
            vlm.end_id(self.processor),
            lambda row, ids: emit(self._sample(requests[row], ids[width:].tolist(), sampling.logprobs[row])),
        )
        while True:
            output = self.model.generate(
                **inputs,
                max_new_tokens=self._longest - (inputs["input_ids"].shape[1] - width),
                logits_processor=LogitsProcessorList([sampling]),
                stopping_criteria=StoppingCriteriaList([watch]),
                return_dict_in_generate=True,
            )
            if not watch.few or output.sequences.shape[1] - width == self._longest:
                break
            kept = watch.compact()
            sampling.keep(kept)
            inputs = self._continued(inputs["attention_mask"], output, kept)
        watch.flush(output.sequences)

    def _continued(self, attention_mask: Tensor, output: Any, kept: list[int]) -> dict[str, Any]:
        """Return the arguments with which ``generate`` goes on with some rows of its output."""
        ids = output.sequences[kept]
        new = ids.new_ones(len(kept), ids.shape[1] - attention_mask.shape[1])
        output.past_key_values.batch_select_indices(torch.tensor(kept, device=ids.device))
        if getattr(self.model.model, "rope_deltas", None) is not None:
            self.model.model.rope_deltas = self.model.model.rope_deltas[kept]
        return {
            "input_ids": ids,
            "attention_mask": torch.cat([attention_mask[kept], new], dim=1),
            "past_key_values": output.past_key_values,
        }

    def _sample(self, request: Request, tokens: list[int], logprobs: list[float]) -> Sample:
        return Sample(
            group=request.group,
            sample=request.sample,
            tokens=tuple(tokens),
            logprobs=tuple(logprobs[: len(tokens)]),
            text=vlm.decode(self.processor, tokens, keep_special=self._keep_special),
            finished=tokens[-1] == vlm.end_id(self.processor),
            version=self.version,
            prompt_tokens=len(self._prompts.of(request).input_ids),
        )


class Sampling(LogitsProcessor):  # type: ignore[misc]
    """Chooses every row's next token and records its log-probability.

    Returns scores that are 0 at the chosen token and -inf elsewhere, so that greedy decoding takes
    it. Image and video tokens are banned: a policy that writes one breaks the next forward pass.

    Attributes:
        logprobs: Of every request's tokens so far, and of what was drawn after its end.
    """

    def __init__(self, seeds: Sequence[int], banned: Sequence[int], temperature: float) -> None:
        self.logprobs: list[list[float]] = [[] for _ in seeds]
        self._rows = list(range(len(seeds)))
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._banned = list(banned)
        self._temperature = temperature

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows of the batch alone, which lie in this order from now on."""
        self._rows = [self._rows[row] for row in rows]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        del input_ids
        logp_NV = tempered_log_softmax(scores, self._banned, self._temperature)
        generators = [self._generators[row] for row in self._rows]
        noise_NV = torch.stack([torch.empty(scores.shape[-1]).exponential_(generator=g) for g in generators])
        chosen_N1 = (logp_NV - noise_NV.to(scores.device).log()).argmax(-1, keepdim=True)
        for row, logprob in zip(self._rows, logp_NV.gather(-1, chosen_N1).squeeze(-1).tolist(), strict=True):
            self.logprobs[row].append(logprob)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen_N1, 0.0)


class RowsEnding(StoppingCriteria):  # type: ignore[misc]
    """Reports each request once, when its row has written an end token, and stops a batch that is mostly over.

    Args:
        rows: Requests, a row of the batch each.
        end: The end token.
        report: Called with a request's index and all its ids, prompt included.
    """

    def __init__(self, rows: int, end: int, report: Callable[[int, Tensor], None]) -> None:
        self._requests = list(range(rows))
        self._open = set(range(rows))
        self._end = end
        self._report = report

    @property
    def few(self) -> bool:
        """Whether so few rows are left that going on without the others is cheaper: some, but at most half."""
        return 0 < len(self._open) <= SHARE_LEFT * len(self._requests) and len(self._requests) >= ROWS_TO_COMPACT

    def compact(self) -> list[int]:
        """Return the rows that are left, which are the batch from now on."""
        rows = [row for row, request in enumerate(self._requests) if request in self._open]
        self._requests = [self._requests[row] for row in rows]
        return rows

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        del scores
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if token == self._end and self._requests[row] in self._open:
                self._end_of(input_ids, row)
        return torch.full((input_ids.shape[0],), self.few, dtype=torch.bool, device=input_ids.device)

    def flush(self, output: Tensor) -> None:
        """Report the rows that were cut at the longest length."""
        for row, request in enumerate(self._requests):
            if request in self._open:
                self._end_of(output, row)

    def _end_of(self, ids: Tensor, row: int) -> None:
        self._open.discard(self._requests[row])
        self._report(self._requests[row], ids[row])
