"""We-Math's own scores: does a model that solves a problem of several steps solve the steps?

A group is one problem of two or three steps together with a problem for each step. What happens to
it is one of four things:

- insufficient knowledge (IK): a step is wrong, and so is the whole;
- inadequate generalisation (IG): every step is right, the whole is wrong;
- complete mastery (CM): the whole is right, and so are the steps;
- rote memorisation (RM): the whole is right, although steps are wrong.

Between CM and RM the strict reading asks for every step, the loose one for any. The score is
``(groups - IG / 2 - IK - RM) / groups``; the rate of RM is over the groups whose whole is right.

Source:
    Qiao et al., "We-Math: Does Your Large Multimodal Model Achieve Human-like Mathematical
    Reasoning?", ACL 2025, section 3. There the number of groups is the constant 525 of testmini; ours
    is what was answered whole, which over all of testmini is the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WHOLE = "multi"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One answered problem of a group.

    Attributes:
        group: The group.
        steps: Steps of the group's problem, 2 or 3.
        step: ``"1"``, ``"2"``, ``"3"``, or ``"multi"`` for the whole.
        correct: None if that could not be found out.
    """

    group: str
    steps: int
    step: str
    correct: bool | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Step:
        """Return the step of a row of ``samples.jsonl`` whose ``meta`` has ``wemath``."""
        about = row["meta"]["wemath"]
        return cls(group=about["group"], steps=int(about["steps"]), step=str(about["step"]), correct=row["correct"])


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One reading, strict or loose, as shares of 1.

    Attributes:
        score: The average score.
        mastery: Share of CM.
        rote: RM of CM and RM; None if no whole is right.
    """

    score: float
    mastery: float
    rote: float | None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All of it.

    Attributes:
        groups: Groups that were answered and checked whole.
        incomplete: Groups that were not, which count nowhere.
        insufficient: Share of IK, the same in both readings.
        inadequate: Share of IG, the same in both readings.
        strict: Every step must be right.
        loose: Any step must be right.
    """

    groups: int
    incomplete: int
    insufficient: float | None
    inadequate: float | None
    strict: Reading | None
    loose: Reading | None

    def to_json(self) -> dict[str, Any]:
        """Return the scores by name, ``score_strict`` and so on."""
        found: dict[str, Any] = {"groups": self.groups, "incomplete": self.incomplete}
        found |= {"insufficient_knowledge": self.insufficient, "inadequate_generalisation": self.inadequate}
        for name, reading in (("strict", self.strict), ("loose", self.loose)):
            found[f"score_{name}"] = None if reading is None else reading.score
            found[f"complete_mastery_{name}"] = None if reading is None else reading.mastery
            found[f"rote_memorisation_{name}"] = None if reading is None else reading.rote
        return found


def scores(steps: Sequence[Step]) -> Scores:
    """Return We-Math's scores; None for all of them without a whole group."""
    groups: dict[tuple[int, str], dict[str, bool | None]] = defaultdict(dict)
    for step in steps:
        groups[step.steps, step.group][step.step] = step.correct
    whole = [found for (number, _), found in groups.items() if _is_whole(found, number)]
    parts = [([bool(right) for name, right in group.items() if name != WHOLE], bool(group[WHOLE])) for group in whole]
    n = len(parts)
    insufficient = sum(not right and not all(of_steps) for of_steps, right in parts)
    inadequate = sum(not right and all(of_steps) for of_steps, right in parts)
    right = [of_steps for of_steps, right in parts if right]
    return Scores(
        groups=n,
        incomplete=len(groups) - n,
        insufficient=insufficient / n if n else None,
        inadequate=inadequate / n if n else None,
        strict=_reading(sum(map(all, right)), len(right), inadequate, n),
        loose=_reading(sum(map(any, right)), len(right), inadequate, n),
    )


def _is_whole(group: Mapping[str, bool | None], steps: int) -> bool:
    names = {*map(str, range(1, steps + 1)), WHOLE}
    return group.keys() == names and None not in group.values()


def _reading(mastered: int, right: int, inadequate: int, n: int) -> Reading | None:
    if n == 0:
        return None
    return Reading(
        score=(mastered + 0.5 * inadequate) / n,
        mastery=mastered / n,
        rote=(right - mastered) / right if right else None,
    )
