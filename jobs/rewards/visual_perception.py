"""The reward ``visual_perception``: how well a response has looked at the image, as a judge finds.

The judge reads annotations and the response, or sees the image itself and needs no annotations.
"""

from __future__ import annotations

from jobs.rewards.judge_client import JudgeClient
from jobs.rewards.part import Example, Part, Surroundings
from jobs.rewards.settings import VisualPerception
from orchestrator.errors import InputError


class VisualPerceptionReward:
    """Asks the judge about every response to a problem that has facts, be it right or wrong.

    With ``judge_sees: image`` it is asked about every response to a problem that has an image.
    A problem without facts, or without an image, earns 0 and stays out of the mean, and the judge is not asked, as
    published. A judge that cannot be made to answer leaves the part missing; published, one failed
    call of a batch ended the training. How replies are read, and where that differs from the
    published code, is specified in ``eval.facts.read``.
    """

    def __init__(self, settings: VisualPerception, surroundings: Surroundings) -> None:
        if surroundings.run is None:
            raise InputError("rewards.visual_perception: It needs the run that the judge is a role of.")
        self._sees_image = settings.judge_sees == "image"
        self._client = JudgeClient(
            settings,
            run=surroundings.run,
            role=surroundings.role,
            generation=surroundings.generation,
            progress=surroundings.progress,
            faithful=surroundings.faithful,
        )

    async def __call__(self, example: Example, response: str) -> Part:
        if self._sees_image:
            verdict = await self._client.judge_by_image(example.images, response)
        else:
            verdict = await self._client.judge(example.visual_key_info, response)
        if verdict is None:
            return Part(value=0.0, counted=False)
        return Part(value=verdict.value, verdict=verdict)

    def metrics(self) -> dict[str, float]:
        return self._client.metrics()

    async def close(self) -> None:
        await self._client.close()
