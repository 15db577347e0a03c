"""Every reward by its name in a recipe. A new one is a class, its settings, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobs.rewards import settings
from jobs.rewards.accuracy import AccuracyReward
from jobs.rewards.ocr import OcrReward
from jobs.rewards.own import OwnReward, find
from jobs.rewards.part import Reward, Surroundings
from jobs.rewards.spatial import CountingReward, DetectionReward, GroundingFormatReward, GroundingReward
from jobs.rewards.text import FormatReward, RepetitionReward, ThinkingReward
from jobs.rewards.visual_perception import VisualPerceptionReward

REWARDS: dict[str, Callable[[Any, Surroundings], Reward]] = {
    "accuracy": AccuracyReward,
    "format": FormatReward,
    "visual_perception": VisualPerceptionReward,
    "repetition": RepetitionReward,
    "thinking": ThinkingReward,
    "grounding": GroundingReward,
    "grounding_format": GroundingFormatReward,
    "counting": CountingReward,
    "ocr": OcrReward,
    "detection": DetectionReward,
}


def build(rewards: settings.Rewards, surroundings: Surroundings) -> dict[str, Reward]:
    """Return every reward that the recipe names, ready to be asked. Called inside the event loop.

    Raises:
        InputError: A function of the user's own does not exist.
    """
    check(rewards)
    return {
        name: REWARDS[name](part, surroundings) if name in REWARDS else OwnReward(name)
        for name, part in rewards.parts().items()
    }


def check(rewards: settings.Rewards) -> None:
    """Find every function of the user's own, without starting anything.

    Raises:
        InputError: One of them does not exist.
    """
    for name in rewards.own:
        find(name)
