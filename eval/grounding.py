"""Grounding: one box for what a text refers to."""

from __future__ import annotations

import re
from dataclasses import dataclass

from eval import box_text, iou
from eval.iou import Floats
from eval.target import Box, System, Target
from eval.thinking import without_end

THRESHOLDS = (0.1, 0.3, 0.5, 0.75, 0.95)
EPSILON = 1e-10
"""Published in the denominator, so that boxes that overlap by exactly half miss the threshold 0.5."""
FORM = re.compile(
    r"<\|object_ref_start\|>[^<]*<\|object_ref_end\|>"
    r"<\|box_start\|>\(\d+(?:\.\d+)?,\d+(?:\.\d+)?\),\(\d+(?:\.\d+)?,\d+(?:\.\d+)?\)<\|box_end\|>"
)


@dataclass(frozen=True, kw_only=True)
class GroundingScore:
    """One answer against the truth.

    Attributes:
        box: As the response wrote it, in the units of ``system``; None if there is no box.
        system: The units.
        iou: In ``[0, 1]``; 0 without a box.
        centre: Whether the middle of the box lies in the true one, edges included.
    """

    box: Box | None
    system: System
    iou: float
    centre: bool

    def parts(self) -> dict[str, float]:
        """Return numbers by name: ``iou``, ``acc@0.5`` (overlaps at least that much) and others, ``centre``."""
        hits = {f"acc@{threshold:g}": float(self.iou >= threshold) for threshold in THRESHOLDS}
        return {"iou": self.iou, **hits, "centre": float(self.centre)}


def score(response: str, target: Target, coordinates: System, *, faithful: bool = False) -> GroundingScore:
    """Return what the first box of the response is worth against the truth.

    The first box counts, so that listing every box of the image earns nothing. Where the truth has
    several boxes, each is right, and the best counts. A box that is turned inside out overlaps
    nothing.

    Args:
        response: The decoded response, with or without special tokens.
        target: The truth, in any units.
        coordinates: The units that the model writes.
        faithful: As PR1's evaluation: see ``as_published`` for the reading, and ``EPSILON``.

    Source:
        PR1, eval/evaluate_grounding.py:12-53 and 104-121 at 48d5558. There everything is compared as
        thousandths, of which absolute pixels become something else without a word.
    """
    system = "rel1000" if faithful else coordinates
    box = as_published(response, evaluating=True) if faithful else next(iter(box_text.boxes(response)), None)
    truths_N4 = target.boxes_in(system)
    return GroundingScore(
        box=box,
        system=system,
        iou=_best_overlap(box, truths_N4, EPSILON if faithful else 0.0),
        centre=_has_middle_inside(box, truths_N4),
    )


def iou_of(response: str, target: Target, coordinates: System, *, faithful: bool = False) -> float:
    """Return the overlap of the response's box with the true one, in ``[0, 1]``: what training rewards.

    Args:
        response: The decoded response.
        target: The truth.
        coordinates: The units that the model writes.
        faithful: Read as PR1 does in training: see ``as_published``. The overlap is not rounded down
            there by ``EPSILON``.
    """
    if faithful:
        return _best_overlap(as_published(response), target.boxes_in("rel1000"))
    return score(response, target, coordinates).iou


def as_published(response: str, *, evaluating: bool = False) -> Box | None:
    """Return the box that PR1 reads in training or evaluation, in thousandths; None if there is none.

    Without ``<|box_start|>`` in the text numbers are taken for shares of 1, multiplied by 1000 and
    cut to integers. The thinking is looked at like the answer.

    Source:
        PR1, src/open_r1/utils.py:108-149 at 48d5558.
    """
    found = box_text.first_as_published(response.replace("<|endoftext|>", ""), evaluating=evaluating)
    if found is None or "<|box_start|>" in response:
        return found
    x1, y1, x2, y2 = (float(int(number * 1000)) for number in found)
    return x1, y1, x2, y2


def well_formed(response: str, *, faithful: bool = False) -> bool:
    """Return whether the response is a name and one box between Qwen's tokens, and nothing else.

    ``<|object_ref_start|>name<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>``; white space
    around it and end tokens are free.

    Args:
        response: The decoded response, special tokens kept.
        faithful: As published: the pattern there does not escape the bars of the tokens, so a text
            that begins with ``<``, ``>`` or a token's bare name is well formed. Published runs were
            trained so.

    Source:
        PR1, src/open_r1/rewards.py:38-43 at 48d5558.

    >>> well_formed("<|object_ref_start|>a dog<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|><|im_end|>")
    True
    """
    if faithful:
        return response.startswith(("<", ">", "object_ref_start", "object_ref_end", "box_start", "box_end"))
    return FORM.fullmatch(without_end(response).strip()) is not None


def _best_overlap(box: Box | None, truths_N4: Floats, epsilon: float = 0.0) -> float:
    return 0.0 if box is None else float(iou.matrix(box, truths_N4, epsilon=epsilon).max(initial=0.0))


def _has_middle_inside(box: Box | None, truths_N4: Floats) -> bool:
    if box is None:
        return False
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    inside_N = (truths_N4[:, :2] <= middle).all(1) & (truths_N4[:, 2:] >= middle).all(1)
    return bool(inside_N.any())
