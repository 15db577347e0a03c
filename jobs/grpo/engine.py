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
from jobs.grpo.rollout import Request, Sample
from orchestrator.errors import InputError

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
        self.max_prompt_tokens = max_prompt_tokens
        self.version = 0
        self._banned = vlm.banned_ids(self.processor)
        self._prompts: dict[str, vlm.Prompt] = {}
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
        prompts = [self._prompt(request) for request in requests]
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

    def _prompt(self, request: Request) -> vlm.Prompt:
        if request.example not in self._prompts:
            if len(self._prompts) > 4096:
                self._prompts.clear()
            prompt = vlm.encode(self.processor, request.text, request.images)
            if len(prompt.input_ids) > self.max_prompt_tokens:
                raise InputError(
                    f"max_prompt_tokens: the prompt of example {request.example!r} has {len(prompt.input_ids)} tokens, "
                    f"more than {self.max_prompt_tokens}. Raise the limit or remove the example."
                )
            self._prompts[request.example] = prompt
        return self._prompts[request.example]


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


def device() -> str:
    """Return where this process computes: its first visible GPU, or the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def tempered_log_softmax(logits: Tensor, banned: Sequence[int], temperature: float) -> Tensor:
    """Return the log-probabilities that sampler and trainer share, in float32.

    Both must ban the same tokens and use the same temperature, or the importance ratio is not 1 for
    unchanged weights (R1-V #91, VLM-R1 #252).
    """
    logits = logits.float() / temperature
    if banned:
        logits = logits.index_fill(-1, torch.tensor(banned, device=logits.device), -torch.inf)
    return torch.log_softmax(logits, dim=-1)
