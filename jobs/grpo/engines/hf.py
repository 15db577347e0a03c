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

_END = object()


class HfEngine:
    """A copy of the policy that only samples."""

    def __init__(
        self, model: str, *, dtype: str, temperature: float, max_new_tokens: int, batch: int, max_prompt_tokens: int
    ) -> None:
        self.processor = vlm.load_processor(model)
        self.model = vlm.load_model(model, dtype=dtype, device=device(), trainable=False)
        self.temperature = temperature
        self.batch = batch
        self.version = 0
        self._banned = vlm.banned_ids(self.processor)
        self._prompts = EncodedPrompts(self.processor, max_prompt_tokens)
        # The folder's own generation settings (top_k, repetition penalty) would make the engine
        # sample from another distribution than the trainer differentiates.
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
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
        prompts = [self._prompts.of(request) for request in requests]
        inputs = vlm.pad_left(prompts, vlm.pad_id(self.processor), self.model.device)
        sampling = Sampling([r.seed for r in requests], self._banned, self.temperature)
        width = inputs["input_ids"].shape[1]
        end = vlm.end_id(self.processor)
        watch = RowsEnding(
            width, end, lambda row, tokens: emit(self._sample(requests[row], tokens, sampling.logprobs[row], end))
        )
        output = self.model.generate(
            **inputs,
            logits_processor=LogitsProcessorList([sampling]),
            stopping_criteria=StoppingCriteriaList([watch]),
        )
        watch.flush(output)

    def _sample(self, request: Request, tokens: list[int], logprobs: list[float], end: int) -> Sample:
        return Sample(
            group=request.group,
            sample=request.sample,
            tokens=tuple(tokens),
            logprobs=tuple(logprobs[: len(tokens)]),
            text=vlm.decode(self.processor, tokens),
            finished=tokens[-1] == end,
            version=self.version,
        )


class Sampling(LogitsProcessor):  # type: ignore[misc]
    """Chooses every row's next token and records its log-probability.

    Returns scores that are 0 at the chosen token and -inf elsewhere, so that greedy decoding takes
    it. Image and video tokens are banned: a policy that writes one breaks the next forward pass.
    """

    def __init__(self, seeds: Sequence[int], banned: Sequence[int], temperature: float) -> None:
        self.logprobs: list[list[float]] = [[] for _ in seeds]
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._banned = list(banned)
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        del input_ids
        logp_NV = tempered_log_softmax(scores, self._banned, self._temperature)
        noise_NV = torch.stack([torch.empty(scores.shape[-1]).exponential_(generator=g) for g in self._generators])
        chosen_N1 = (logp_NV - noise_NV.to(scores.device).log()).argmax(-1, keepdim=True)
        for row, logprob in enumerate(logp_NV.gather(-1, chosen_N1).squeeze(-1).tolist()):
            self.logprobs[row].append(logprob)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen_N1, 0.0)


class RowsEnding(StoppingCriteria):  # type: ignore[misc]
    """Reports each row once, when it has written an end token. Never stops anything itself."""

    def __init__(self, prompt_width: int, end: int, report: Callable[[int, list[int]], None]) -> None:
        self._width = prompt_width
        self._end = end
        self._report = report
        self._open: set[int] | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        del scores
        rows = self._rows(input_ids)
        last = input_ids[:, -1].tolist()
        for row in sorted(r for r in rows if last[r] == self._end):
            rows.discard(row)
            self._report(row, input_ids[row, self._width :].tolist())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def flush(self, output: Tensor) -> None:
        """Report the rows that were cut at the longest length."""
        for row in sorted(self._rows(output)):
            self._report(row, output[row, self._width :].tolist())

    def _rows(self, input_ids: Tensor) -> set[int]:
        if self._open is None:
            self._open = set(range(input_ids.shape[0]))
        return self._open
