"""What an engine is asked for and what it gives back, one record a response."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Request:
    """Asks for one response.

    Attributes:
        group: Index of the prompt within the step.
        sample: Index of the response within its group.
        example: The example's id; engines keep what they computed from it.
        text: What the user says, ``<image>`` where an image goes.
        images: Encoded image files.
        seed: Fixes every token of the response, whatever is sampled beside it.
    """

    group: int
    sample: int
    example: str
    text: str
    images: tuple[bytes, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One response, token for token as it was sampled. Text is never turned back into tokens.

    Attributes:
        group: As in the request.
        sample: As in the request.
        tokens: Sampled tokens, the end token included if there was one.
        logprobs: The engine's log-probability of each, at the sampling temperature.
        text: The response, special tokens left out unless the engine keeps them.
        finished: Whether the model ended it; otherwise it was cut at the longest length.
        version: The policy's version that sampled it: optimiser steps taken.
        prompt_tokens: How many the prompt has, those of its images included.
    """

    group: int
    sample: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finished: bool
    version: int
    prompt_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """One response and what it was worth: a row of the batch an optimiser step is made from.

    Attributes:
        example: The example's id.
        text: What the user said, ``<image>`` where an image goes.
        images: Encoded image files.
        tokens: As sampled.
        logprobs: The engine's, as sampled.
        advantage: How much better than its group; 0 teaches nothing.
        finished: False if the response was cut off at the longest length.
        version: Of the weights that sampled it.
    """

    example: str
    text: str
    images: tuple[bytes, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    advantage: float
    finished: bool = True
    version: int = 0
