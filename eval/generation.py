"""Answers of one model at temperature 0, batch by batch, with transformers' ``generate``."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from eval.samples import Answer
from jobs import vlm
from jobs.data import Example, prompt

WEIGHTS = ("*.safetensors", "*.bin")


class GreedyModel:
    """A model that always takes its likeliest token.

    The folder's own generation settings are left alone: a repetition penalty in them would measure
    another model than the one that was trained.
    """

    def __init__(self, model: str, *, device: str, dtype: str, max_new_tokens: int) -> None:
        self.device = _device(device)
        self.dtype = ("bfloat16" if self.device != "cpu" else "float32") if dtype == "auto" else dtype
        self._processor = vlm.load_processor(model)
        self._model = vlm.load_model(model, dtype=self.dtype, device=self.device, trainable=False)
        self._end = vlm.end_id(self._processor)
        self._pad = vlm.pad_id(self._processor)
        self._model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call, unused-ignore]
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=self._end,
            pad_token_id=self._pad,
            suppress_tokens=vlm.banned_ids(self._processor) or None,
        )

    @property
    def revision(self) -> str | None:
        """The hub's commit of the weights; None for a folder."""
        found = getattr(self._model.config, "_commit_hash", None)
        return str(found) if found else None

    @torch.inference_mode()
    def answers(
        self, examples: Sequence[Example], format_prompt: str, *, stop: Callable[[], bool] = lambda: False
    ) -> list[Answer] | None:
        """Return one answer an example, in order; None if ``stop`` said so before they were complete."""
        began = time.monotonic()
        prompts = [vlm.encode(self._processor, prompt(e, format_prompt), e.images) for e in examples]
        inputs = vlm.pad_left(prompts, self._pad, self.device)
        watch = Stop(stop)
        output = self._model.generate(**inputs, stopping_criteria=StoppingCriteriaList([watch]))
        if watch.stopped:
            return None
        batch_s = time.monotonic() - began
        return [self._answer(row, batch_s) for row in output[:, inputs["input_ids"].shape[1] :].tolist()]

    def _answer(self, row: list[int], batch_s: float) -> Answer:
        finished = self._end in row
        tokens = row[: row.index(self._end) + 1] if finished else row
        return Answer(
            text=vlm.decode(self._processor, tokens), tokens=len(tokens), finished=finished, batch_s=round(batch_s, 3)
        )


class Stop(StoppingCriteria):  # type: ignore[misc, unused-ignore]
    """Ends a batch between two tokens, because a drain cannot wait for thousands of them."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.stopped = False
        self._wanted = wanted

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        del scores
        self.stopped = self.stopped or self._wanted()
        return torch.full((input_ids.shape[0],), self.stopped, dtype=torch.bool, device=input_ids.device)


def weights_sha256(model: str) -> str | None:
    """Return one hash of all weight files in a folder, by name and content; None for a name on the hub."""
    files = sorted(path for pattern in WEIGHTS for path in Path(model).glob(pattern))
    if not files:
        return None
    listing = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            listing.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return listing.hexdigest()


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"
