"""The reward ``ocr``: how much the response resembles the text that is to be read."""

from __future__ import annotations

from eval import edit_distance, thinking
from jobs.rewards.part import Example, Part, Surroundings
from jobs.rewards.settings import Ocr


class OcrReward:
    """Between 0 and 1, see ``eval.edit_distance.similarity``, of what the response answers.

    A page without text earns 0 whatever was said, as published, and stays out of the mean: nothing
    can be learnt from it.
    """

    def __init__(self, _settings: Ocr, surroundings: Surroundings) -> None:
        self._faithful = surroundings.faithful

    async def __call__(self, example: Example, response: str) -> Part:
        if not example.answer.strip():
            return Part(value=0.0, counted=False)
        said = response if self._faithful else thinking.answer(response)
        return Part(value=edit_distance.similarity(said, example.answer, faithful=self._faithful))

    def metrics(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        return None
