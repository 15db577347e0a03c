"""Answers by transformers' ``generate``, a batch at a time, each handed over when its row ends.

The folder's own generation settings are left alone: a repetition penalty in them would measure another model than the
one that was trained. Sampled answers depend on their seed and prompt alone, not on what is sampled beside them: every
row adds Gumbel noise of a generator of its own to its log-probabilities, and the largest sum is a sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eval.generation import Answer, Inbox, Question
from eval.settings import Settings
from jobs import vlm
from orchestrator.errors import InputError

# After jobs.vlm, whose repair lets transformers be imported beside a CPU build of torch.
from transformers import (  # isort: skip
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)


class HfEngine:
    """A model in this process on one device."""

    def __init__(self, settings: Settings, model: str) -> None:
        device = _device(settings.device)
        dtype = ("bfloat16" if device != "cpu" else "float32") if settings.dtype == "auto" else settings.dtype
        # One batch is answered while the next waits here.
        self.room = 2 * settings.batch
        self._settings = settings
        self._processor = vlm.load_processor(model)
        self._model = vlm.load_model(model, dtype=dtype, device=device, trainable=False)
        self._end = vlm.end_id(self._processor)
        self._model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=settings.max_new_tokens,
            repetition_penalty=settings.repetition_penalty,
            eos_token_id=self._end,
            pad_token_id=vlm.pad_id(self._processor),
            suppress_tokens=vlm.banned_ids(self._processor) or None,
        )
        self.about: Mapping[str, Any] = {"device": device, "dtype": dtype, "revision": revision(self._model.config)}

    def answer(self, inbox: Inbox, emit: Callable[[Answer], None]) -> None:
        """Answer what the inbox holds, batch by batch."""
        while batch := inbox.take(self._settings.batch, wait=True):
            self._answer(batch, inbox, emit)

    @torch.inference_mode()
    def _answer(self, batch: Sequence[Question], inbox: Inbox, emit: Callable[[Answer], None]) -> None:
        began = time.monotonic()
        inputs = vlm.pad_left(
            [encoded(self._processor, question) for question in batch],
            vlm.pad_id(self._processor),
            self._model.device,
        )
        width = inputs["input_ids"].shape[1]

        def report(row: int, ids: list[int]) -> None:
            emit(self._worded(batch[row], ids[width:], time.monotonic() - began))

        watch = Watch(len(batch), self._end, report, lambda: inbox.stopped)
        output = self._model.generate(
            **inputs,
            logits_processor=LogitsProcessorList(self._sampling(batch)),
            stopping_criteria=StoppingCriteriaList([watch]),
        )
        if not inbox.stopped:
            watch.flush(output)

    def _sampling(self, batch: Sequence[Question]) -> list[LogitsProcessor]:
        given = self._settings
        return [Sampling([q.seed for q in batch], given.temperature, given.top_p)] if given.temperature else []

    def _worded(self, question: Question, tokens: list[int], seconds: float) -> Answer:
        return worded(self._processor, self._settings, question, tokens, seconds)


def encoded(processor: Any, question: Question) -> vlm.Prompt:
    """Return a question as the model's tokens and pixels.

    Raises:
        InputError: Its images do not fit its text, or are none.
    """
    try:
        return vlm.encode(processor, question.text, question.images, system=question.system)
    except ValueError as error:
        raise InputError(f"problem {question.key[0]!r}: {error} Correct the data or leave the problem out.") from None


def worded(processor: Any, settings: Settings, question: Question, tokens: Sequence[int], seconds: float) -> Answer:
    """Return the answer that these tokens are. The end token is counted and never in the text."""
    finished = len(tokens) > 0 and tokens[-1] == vlm.end_id(processor)
    said = tokens[:-1] if finished else tokens
    return Answer(
        key=question.key,
        text=vlm.decode(processor, said, keep_special=settings.keep_special_tokens),
        tokens=len(tokens),
        finish="stop" if finished else "length",
        seconds=round(seconds, 3),
    )


def revision(config: Any) -> str | None:
    """Return the hub's commit of a model's weights; None for a folder."""
    found = getattr(config, "_commit_hash", None)
    return str(found) if found else None


class Watch(StoppingCriteria):
    """Reports each row once, when it has ended, and stops the batch between two tokens when told to.

    Args:
        rows: Rows of the batch.
        end: The end token.
        report: Called with a row and all its ids, prompt included, up to the end token.
        wanted: Whether to stop; asked at every token, because nobody can wait for thousands of them.
    """

    def __init__(
        self, rows: int, end: int, report: Callable[[int, list[int]], None], wanted: Callable[[], bool]
    ) -> None:
        self._open = set(range(rows))
        self._end = end
        self._report = report
        self._wanted = wanted

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        del scores
        ends = (input_ids[:, -1] == self._end).nonzero().flatten().tolist()
        for row in self._open.intersection(ends):
            self._report(row, input_ids[row].tolist())
        self._open.difference_update(ends)
        return torch.full((input_ids.shape[0],), self._wanted(), dtype=torch.bool, device=input_ids.device)

    def flush(self, output: Tensor) -> None:
        """Report the rows that were cut at the longest length."""
        for row in sorted(self._open):
            self._report(row, output[row].tolist())
        self._open.clear()


class Sampling(LogitsProcessor):
    """Chooses every row's next token by its own seed: the scores it returns are 0 there and -inf elsewhere."""

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        del input_ids
        logits_NV = nucleus(scores.float() / self._temperature, self._top_p)
        noise_NV = torch.stack([torch.empty(scores.shape[-1]).exponential_(generator=g) for g in self._generators])
        chosen_N1 = (logits_NV - noise_NV.to(scores.device).log()).argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen_N1, 0.0)


def nucleus(logits_NV: Tensor, top_p: float) -> Tensor:
    """Return the logits with -inf at all tokens but the fewest likeliest whose probabilities reach ``top_p``.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020.
    """
    if top_p >= 1:
        return logits_NV
    ordered_NV, order_NV = logits_NV.sort(dim=-1, descending=True)
    before_NV = ordered_NV.softmax(-1).cumsum(-1) - ordered_NV.softmax(-1)
    return logits_NV.masked_fill((before_NV >= top_p).gather(-1, order_NV.argsort(-1)), -torch.inf)


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"
