"""The rewards that look at the response's text alone: ``format``, ``thinking`` and ``repetition``."""

from __future__ import annotations

from eval import formatting, repetition, thinking
from jobs.rewards.part import Example, Part, Surroundings
from jobs.rewards.settings import Format, Repetition, Thinking


class FormatReward:
    """1 if the response is well formed, else 0: see ``eval.formatting.well_formed``."""

    def __init__(self, settings: Format, _surroundings: Surroundings) -> None:
        self._perception = settings.perception

    async def __call__(self, _example: Example, response: str) -> Part:
        return Part(value=float(formatting.well_formed(response, perception=self._perception)))

    def metrics(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        return None


class ThinkingReward:
    """1 if the response is thinking and an answer, else 0: see ``eval.thinking.well_formed``."""

    def __init__(self, _settings: Thinking, surroundings: Surroundings) -> None:
        self._faithful = surroundings.faithful

    async def __call__(self, _example: Example, response: str) -> Part:
        return Part(value=float(thinking.well_formed(response, faithful=self._faithful)))

    def metrics(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        return None


class RepetitionReward:
    """At most 0, less the more the response repeats itself: see ``eval.repetition.penalty``."""

    def __init__(self, settings: Repetition, _surroundings: Surroundings) -> None:
        self._settings = settings

    async def __call__(self, _example: Example, response: str) -> Part:
        value = repetition.penalty(response, ngram=self._settings.ngram, max_penalty=self._settings.max_penalty)
        return Part(value=value)

    def metrics(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        return None
