"""The tasks by name; a new one is a file with ``scene`` and ``WORDS``, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobs.data.scenes import counting, detection, grounding, ocr
from jobs.data.scenes.scene import Scene


@dataclass(frozen=True, kw_only=True)
class Task:
    """How the scenes of one task are made.

    Attributes:
        scene: A function from a seed, and the share of careless responses, to a scene.
        words: Texts that shall be one token each, beyond what Qwen2's splitting makes one: it takes numbers
            apart into digits.
    """

    scene: Callable[[str, float], Scene]
    words: tuple[str, ...]


TASKS = {
    "grounding": Task(scene=grounding.scene, words=grounding.WORDS),
    "counting": Task(scene=counting.scene, words=counting.WORDS),
    "ocr": Task(scene=ocr.scene, words=ocr.WORDS),
    "detection": Task(scene=detection.scene, words=detection.WORDS),
}


def scenes(task: str, split: str, number: int, *, seed: int, careless: float = 0.0) -> list[Scene]:
    """Return ``number`` scenes of a task, all drawn differently.

    Every scene's generator is seeded with (seed, task, split, position), so splits share no drawing and
    a longer list begins with the shorter one.

    Args:
        task: A key of ``TASKS``.
        split: ``"train"``, ``"test"``, ``"warm"``, or any other name.
        number: How many.
        seed: The run's.
        careless: Share of careless responses.
    """
    return [TASKS[task].scene(f"{seed}/{task}/{split}/{position}", careless) for position in range(number)]
