"""Rollout engines: copies of the policy that only sample.

Importing this module is light; an engine's libraries are imported when one is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from jobs.grpo.rollout import Request, Sample, TrainingRow
from jobs.grpo.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor


class Engine(Protocol):
    """Samples responses token in, token out.

    Attributes:
        version: Of the weights it holds: optimiser steps taken. Written into every sample.
    """

    version: int

    def generate(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """Yield one sample a request, in the order in which they end, each the moment it ends."""
        ...

    def load_weights(self, weights: dict[str, Tensor], version: int) -> None:
        """Replace all weights. Must not be called while ``generate`` runs.

        Args:
            weights: All of them, named as the Hugging Face model names them.
            version: Of these weights.
        """
        ...

    def logprobs(self, rows: Sequence[TrainingRow]) -> list[tuple[float, ...]]:
        """Return the log-probabilities of given tokens as the sampler would have reported them."""
        ...

    def sleep(self) -> None:
        """Give GPU memory back until ``wake``, where the settings want it. Does nothing on a CPU."""
        ...

    def wake(self) -> None:
        """Take the memory again. ``load_weights`` must follow before the next ``generate``."""
        ...


def build(settings: Settings, source: str) -> Engine:
    """Return the engine that the settings name, holding the weights of ``source``.

    Args:
        settings: Of the role.
        source: A Hugging Face folder or name: the start model, or a checkpoint's.
    """
    engine = settings.engine
    if engine.name == "vllm":
        from jobs.grpo.engines.vllm import VllmEngine

        return VllmEngine(source, engine, dtype=settings.policy.dtype, max_prompt_tokens=settings.max_prompt_tokens)
    from jobs.grpo.engines.hf import HfEngine

    return HfEngine(
        source,
        dtype=settings.policy.dtype,
        temperature=engine.temperature,
        max_new_tokens=engine.max_new_tokens,
        batch=engine.batch,
        max_prompt_tokens=settings.max_prompt_tokens,
        keep_special_tokens=engine.keep_special_tokens,
    )
