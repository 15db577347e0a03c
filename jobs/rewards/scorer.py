"""The scorer: sends one response to all its rewards at once and adds up what it earns.

async with Scorer.of_role(context, settings.rewards) as scorer:
    score = await scorer.score(example, response)      # the moment a response ends
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.entry import Context
from jobs.rewards import registry
from jobs.rewards.part import Example, Reward, Surroundings
from jobs.rewards.settings import Rewards
from jobs.rewards.verdict import Verdict
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one response earns.

    Attributes:
        parts: Every reward's own value by name, before its weight. NaN is missing.
        total: The weighted sum, exactly what training optimises; NaN if a part with a weight other
            than 0 is missing.
        left_out: Parts that do not apply to this row; they stay out of the part's mean.
        judge: What the judge said; None if it was not asked.
    """

    parts: dict[str, float]
    total: float
    left_out: tuple[str, ...] = ()
    judge: Verdict | None = None


class Scorer:
    """All rewards of one recipe, inside one event loop.

    Args:
        rewards: What the recipe says.
        run: The run whose judge is asked; None if no reward asks one.
        role: The role that scores.
        generation: Its attempt.
        progress: Where to say that the judge is waited for.
    """

    def __init__(
        self,
        rewards: Rewards,
        *,
        run: RunDirectory | None = None,
        role: str = "train",
        generation: int = 1,
        progress: Progress | None = None,
    ) -> None:
        self._settings = rewards
        self._weights = rewards.weights()
        self._surroundings = Surroundings(
            run=run, role=role, generation=generation, progress=progress, faithful=rewards.faithful
        )
        self._rewards: dict[str, Reward] = {}

    @classmethod
    def of_role(cls, context: Context, rewards: Rewards) -> Scorer:
        """Return the scorer of a job: it asks the judge of the job's run, and says so where the job speaks."""
        return cls(
            rewards, run=context.run, role=context.role, generation=context.generation, progress=context.progress
        )

    async def __aenter__(self) -> Scorer:
        self._rewards = registry.build(self._settings, self._surroundings)
        return self

    async def __aexit__(self, *_: object) -> None:
        for reward in self._rewards.values():
            await reward.close()

    async def score(self, example: Example, response: str) -> Score:
        """Return what the response earns.

        The total is the weighted sum without clipping. Source: Perception-R1, whose metric
        ``overall`` leaves the repetition penalty out of it; there is no such second total here.

        Raises:
            JudgeOutage: The judge has not answered for longer than the outage budget.
        """
        found = await asyncio.gather(*(reward(example, response) for reward in self._rewards.values()))
        parts = dict(zip(self._rewards, found, strict=True))
        weighted = (self._weights[name] * part.value for name, part in parts.items() if self._weights[name])
        return Score(
            parts={name: part.value for name, part in parts.items()},
            total=sum(weighted, 0.0),
            left_out=tuple(name for name, part in parts.items() if not part.counted),
            judge=next((part.verdict for part in found if part.verdict is not None), None),
        )

    def metrics(self) -> dict[str, float]:
        """Return what every reward has to plot since the last call: judge latencies, failures and so on."""
        return {name: value for reward in self._rewards.values() for name, value in reward.metrics().items()}


def means(scores: Sequence[Score]) -> dict[str, float]:
    """Return the mean of every part and of ``total``, over the rows where it applies and is not missing.

    A part that no row has is 0: published so for a batch without annotations, and a curve without
    a gap is easier to read. Where every value is missing the mean is NaN.

    >>> row = Score(parts={"visual_perception": 0.5}, total=0.5)
    >>> means([row, Score(parts={"visual_perception": 0.0}, total=0.0, left_out=("visual_perception",))])
    {'visual_perception': 0.5, 'total': 0.25}
    """
    names = list(dict.fromkeys(name for score in scores for name in score.parts))
    columns = {name: [score.parts[name] for score in scores if name not in score.left_out] for name in names}
    columns["total"] = [score.total for score in scores]
    return {name: _mean(values) for name, values in columns.items()}


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    if not values:
        return 0.0
    return math.fsum(known) / len(known) if known else math.nan
