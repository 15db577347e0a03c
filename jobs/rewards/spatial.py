"""The rewards that look at boxes and points: ``grounding``, ``grounding_format``, ``counting``, ``detection``.

A problem whose truth has no numbers earns 0 and stays out of the mean, so that problems of several
kinds can be mixed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from eval import coco, counting, detection, grounding
from jobs.rewards.part import Example, Part, Surroundings
from jobs.rewards.settings import Counting, Detection, Grounding, GroundingFormat

NOT_ASKED = Part(value=0.0, counted=False)


class GroundingReward:
    """Between 0 and 1: see ``eval.grounding.iou_of``; squared, as published, unless the recipe says otherwise."""

    def __init__(self, settings: Grounding, surroundings: Surroundings) -> None:
        self._settings = settings
        self._faithful = surroundings.faithful

    async def __call__(self, example: Example, response: str) -> Part:
        if example.target is None:
            return NOT_ASKED
        coordinates = self._settings.coordinates
        overlap = grounding.iou_of(response, example.target, coordinates, faithful=self._faithful)
        return Part(value=overlap**self._settings.power)

    def metrics(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        return None


class GroundingFormatReward:
    """1 if the response is well formed, else 0: see ``eval.grounding.well_formed``."""

    def __init__(self, _settings: GroundingFormat, surroundings: Surroundings) -> None:
        self._faithful = surroundings.faithful

    async def __call__(self, _example: Example, response: str) -> Part:
        return Part(value=float(grounding.well_formed(response, faithful=self._faithful)))

    def metrics(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        return None


class CountingReward:
    """Between 0 and 1: see ``eval.counting.score``."""

    def __init__(self, settings: Counting, surroundings: Surroundings) -> None:
        self._settings = settings
        self._faithful = surroundings.faithful
        self._means = _Means("counting", ("exact", "error"))

    async def __call__(self, example: Example, response: str) -> Part:
        if example.target is None:
            return NOT_ASKED
        settings = self._settings
        score = counting.score(
            response,
            example.target,
            settings.coordinates,
            writes=settings.writes,
            matching=settings.matching,
            faithful=self._faithful,
        )
        self._means.add(score.parts())
        # The published code always has the gate.
        passes = score.well_formed or not (settings.gate or self._faithful)
        return Part(value=score.reward if passes else 0.0)

    def metrics(self) -> dict[str, float]:
        """Return ``counting/exact`` and ``counting/error``: means since the last call."""
        return self._means.take()

    async def close(self) -> None:
        return None


class DetectionReward:
    """Between 0 and the sum of the scales, 3 as published: see ``eval.detection.score``."""

    def __init__(self, settings: Detection, surroundings: Surroundings) -> None:
        self._coordinates = settings.coordinates
        self._rules = detection.Rules(
            classes=settings.classes or coco.NAMES,
            scales=detection.Scales(
                format=settings.format_scale,
                f1=settings.f1_scale,
                label=settings.label_scale,
                iou=settings.iou_scale,
                penalty=settings.penalty_scale,
                coverage=settings.coverage_scale,
            ),
            matching=settings.matching,
            iou_above=settings.iou_above,
            size_weights=settings.size_weights,
            faithful=surroundings.faithful,
        )
        self._means = _Means("detection", ("format", "f1", "label", "iou", "superfluous", "missed"))

    async def __call__(self, example: Example, response: str) -> Part:
        if example.target is None:
            return NOT_ASKED
        score = detection.score(response, example.target, self._coordinates, self._rules)
        self._means.add(score.parts())
        return Part(value=score.reward)

    def metrics(self) -> dict[str, float]:
        """Return ``detection/f1`` and the other parts: means since the last call."""
        return self._means.take()

    async def close(self) -> None:
        return None


class _Means:
    """Means of the parts of scores since they were last taken; of nothing there is none."""

    def __init__(self, reward: str, names: tuple[str, ...]) -> None:
        self._reward = reward
        self._names = names
        self._values: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, parts: Mapping[str, float]) -> None:
        for name in self._names:
            if not math.isnan(parts[name]):
                self._values[name].append(parts[name])

    def take(self) -> dict[str, float]:
        values, self._values = self._values, defaultdict(list)
        return {f"{self._reward}/{name}": math.fsum(each) / len(each) for name, each in values.items()}
