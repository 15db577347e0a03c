"""Prompts as engines keep them: encoded once per example, never cut."""

from __future__ import annotations

from typing import Any

from jobs import vlm
from jobs.grpo.rollout import Request, TrainingRow
from orchestrator.errors import InputError

_KEPT = 4096


class EncodedPrompts:
    """Encodes the prompts of requests and rows, and keeps some thousand of them."""

    def __init__(self, processor: Any, max_tokens: int) -> None:
        self._processor = processor
        self._max_tokens = max_tokens
        self._kept: dict[str, vlm.Prompt] = {}

    def of(self, asked: Request | TrainingRow) -> vlm.Prompt:
        """Return the encoded prompt of a request or a row.

        Raises:
            InputError: It is longer than allowed. A cut could go through an image.
        """
        if asked.example not in self._kept:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[asked.example] = self._encoded(asked)
        return self._kept[asked.example]

    def _encoded(self, asked: Request | TrainingRow) -> vlm.Prompt:
        prompt = vlm.encode(self._processor, asked.text, asked.images)
        if len(prompt.input_ids) > self._max_tokens:
            raise InputError(
                f"max_prompt_tokens: the prompt of example {asked.example!r} has {len(prompt.input_ids)} tokens, "
                f"more than {self._max_tokens}. Raise the limit or remove the example."
            )
        return prompt
