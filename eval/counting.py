"""Counting: something written for everything that is to be counted, a box or a point, or a bare number.

Letters of shapes: P predictions, G true things.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval import box_text
from eval.box_text import Writes
from eval.matching import Floats, Matching, pairs
from eval.target import Point, Space, System, Target
from eval.thinking import answer

DIAGONAL = 1000.0 * math.sqrt(2.0)
NUMBER = re.compile(r"(?<![\w.,-])(\d{1,7})(?![\w]|[.,]\d)")
GATE = re.compile(
    r"<\|object_ref_start\|>[^<]*<\|object_ref_end\|>(?:<\|box_start\|>[^<]*<\|box_end\|>)+(<\|im_end\|>)?"
)


@dataclass(frozen=True, kw_only=True)
class CountingScore:
    """One answer against the truth.

    Attributes:
        points: Where the response sees something, in thousandths of the image's sides.
        predicted: How many it counts; None if it says nothing of the kind.
        true: How many there are.
        ratio: The smaller number over the larger, in ``[0, 1]``.
        closeness: 1 less the mean distance of pairs over the image's diagonal, in ``[0, 1]``.
        well_formed: It has the published form, see ``well_formed``.
    """

    points: tuple[Point, ...]
    predicted: int | None
    true: int
    ratio: float
    closeness: float
    well_formed: bool

    @property
    def reward(self) -> float:
        """Number and place together, in ``[0, 1]``."""
        return self.ratio * self.closeness

    @property
    def exact(self) -> bool:
        """Whether the number is right; one that was not said is not."""
        return self.predicted == self.true

    def parts(self) -> dict[str, float]:
        """Return numbers by name; ``error`` is NaN where the response says no number."""
        error = math.nan if self.predicted is None else float(abs(self.predicted - self.true))
        return {"exact": float(self.exact), "error": error, "ratio": self.ratio, "closeness": self.closeness}


def score(
    response: str,
    target: Target,
    coordinates: System,
    *,
    writes: Writes = "boxes",
    matching: Matching = "hungarian",
    faithful: bool = False,
) -> CountingScore:
    """Return what the things the response points at are worth against the truth.

    Where there is nothing to count, a response that says 0 is right and everything else worth
    nothing; where there is something, a response without a point earns nothing. A bare number counts
    like points in the right places if the truth has no places either; against a truth with places it
    has ``closeness`` 0, so that it is right or wrong in ``exact`` and earns nothing.

    Args:
        response: The decoded response, with or without special tokens.
        target: The truth: points, boxes (their centres count) or a bare number.
        coordinates: The units that the model writes.
        writes: Whether the model writes boxes or points, see ``box_text.points``.
        matching: How predictions are paired with truths.
        faithful: As published: only boxes between Qwen's tokens, in thousandths; nothing else can be
            counted, and nothing is cut to ``[0, 1]``.

    Source:
        PR1, src/open_r1/rewards.py:178-217 and utils.py:319-377 at accb7cb; where there is nothing to
        count it gives 0 whatever was said. A point outside the image could make the published reward
        negative.
    """
    if faithful:
        found = _published_middles(response)
    else:
        found = _in_thousandths(box_text.points(response, writes), coordinates, target.space)
    predicted = len(found) or (None if faithful else stated(response))
    true = target.number
    ratio = 1.0 if predicted == true else min(predicted or 0, true) / max(predicted or 0, true, 1)
    if faithful and not (predicted and true):
        ratio = 0.0
    return CountingScore(
        points=tuple((float(x), float(y)) for x, y in found),
        predicted=predicted,
        true=true,
        ratio=ratio,
        closeness=_closeness(found, target, matching, faithful=faithful),
        well_formed=well_formed(response, faithful=faithful),
    )


def stated(response: str) -> int | None:
    """Return the last whole number of the answer, None if it has none: for a response without points.

    An empty list is 0. "None" is no number, as published: it may be a refusal.

    >>> stated("I see 3 or 4 cats"), stated("none"), stated("<answer>12</answer>"), stated("1.5")
    (4, None, 12, None)
    """
    said = answer(response)
    if said.strip() == "[]":
        return 0
    numbers = NUMBER.findall(said)
    return int(numbers[-1]) if numbers else None


def well_formed(response: str, *, faithful: bool = False) -> bool:
    """Return whether the response begins with a name and one box or more between Qwen's tokens, nothing between.

    Args:
        response: The decoded response, special tokens kept.
        faithful: As published: ``<|im_end|>`` must follow. Otherwise it may be missing, as whether it
            is in the text is up to the engine, but then the text must end here.
    """
    match = GATE.match(response)
    if match is None:
        return False
    return match.group(1) is not None or (not faithful and not response[match.end() :].strip())


def _published_middles(response: str) -> Floats:
    """Return the middles of the boxes between Qwen's tokens, shape ``[P, 2]``."""
    boxes_P4 = np.array(box_text.marked(response), dtype=np.float64).reshape(-1, 4)
    return (boxes_P4[:, :2] + boxes_P4[:, 2:]) / 2


def _in_thousandths(points: Sequence[Point], coordinates: System, space: Space) -> Floats:
    """Return points of the model, shape ``[P, 2]``."""
    of_model = Space(system=coordinates, width_px=space.width_px, height_px=space.height_px)
    return of_model.to("rel1000", np.array(points, dtype=np.float64).reshape(-1, 2))


def _closeness(found_P2: Floats, target: Target, how: Matching, *, faithful: bool) -> float:
    true_G2 = target.points_in("rel1000")
    if not len(true_G2):
        return 1.0
    if not len(found_P2):
        return 0.0
    with np.errstate(all="ignore"):
        distance_PG = np.linalg.norm(found_P2[:, None] - true_G2[None], axis=-1)
    distance_K = distance_PG[pairs(distance_PG, how)]
    if not faithful:
        distance_K = np.clip(np.nan_to_num(distance_K, nan=DIAGONAL), 0.0, DIAGONAL)
    return float(1.0 - distance_K.mean() / DIAGONAL)
