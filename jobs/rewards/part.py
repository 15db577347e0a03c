"""What one reward is: a judgement of one response, and where it is made.

A reward of your own is a function ``(example, response)``, plain or async, that returns a number,
or None for "could not be found out".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from eval.target import Target
from jobs.rewards.verdict import Verdict
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory


class Example(Protocol):
    """What a reward may know of a problem. ``jobs.data.Example`` is one."""

    @property
    def answer(self) -> str:
        """The ground truth."""

    @property
    def visual_key_info(self) -> str | None:
        """The facts to be seen in the image, as numbered tags; None where nobody wrote any."""

    @property
    def target(self) -> Target | None:
        """The truth in numbers: boxes, points, a count; None for problems whose truth is a text."""

    @property
    def images(self) -> tuple[bytes, ...]:
        """Encoded image files, for a judge that sees."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one reward says of one response.

    Attributes:
        value: NaN if it could not be found out: missing, which is neither good nor bad.
        counted: False where the reward does not apply, so that the row stays out of its mean.
        verdict: What the judge said, for a reward that asks one.
    """

    value: float
    counted: bool = True
    verdict: Verdict | None = None


MISSING = Part(value=math.nan)


class Reward(Protocol):
    """One part of the total."""

    async def __call__(self, example: Example, response: str, /) -> Part:
        """Return what the response earns here."""

    def metrics(self) -> dict[str, float]:
        """Return what there is to plot since the last call, by full name."""

    async def close(self) -> None:
        """Let go of processes and connections."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where a reward works.

    Attributes:
        run: The run whose endpoints it may ask; None outside a run.
        role: The role that scores; the judge's verdicts are kept in its folder.
        generation: The attempt; endpoints of another one are not trusted.
        progress: Where to say what is waited for; None says nothing.
        faithful: Do as the published code does.
    """

    run: RunDirectory | None = None
    role: str = "train"
    generation: int = 1
    progress: Progress | None = None
    faithful: bool = False
