"""One drawn problem with its right response, and the response of somebody who is careless."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from jobs.data import Example


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A problem, and how it may be answered.

    Attributes:
        example: Picture, question and truth.
        response: A right response in the task's form.
        careless: The response of an annotator with a bad habit, who indulges it in some pictures and not
            in others. A model warmed up on such responses says the wrong thing more often than the right
            one where the habit shows, but says both: what reinforcement needs to find the better one.
    """

    example: Example
    response: str
    careless: str


def identity(seed: str) -> str:
    """Return the id of the problem that a seed draws."""
    return hashlib.sha256(seed.encode()).hexdigest()[:16]


def lapses(seed: str, share: float) -> bool:
    """Return whether the annotator of this picture is careless, which happens in this share of all pictures."""
    return random.Random(f"{seed}/careless").random() < share
