"""faster-coco-eval's evaluator, with overlaps of boxes at hand instead of asked of its data set pair by pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask

Thing = dict[str, Any]
Groups = dict[tuple[int, int], list[Thing]]


class Evaluator(COCOeval_faster):  # type: ignore[misc]
    """COCO's evaluation of boxes.

    Args:
        truth: COCO's ground truth. The evaluation writes into its annotations.
        results: COCO's results, in their order where scores are equal.
    """

    def __init__(self, truth: Mapping[str, Any], results: Sequence[Thing]) -> None:
        annotated = COCO({"info": {}, **truth})
        # A box needs no outline, which would be made of its corners.
        found = annotated.loadRes([{**result, "segmentation": ()} for result in results])
        super().__init__(annotated, found, "bbox", print_function=_silent)
        self._true = _grouped(truth["annotations"])
        self._found = _grouped(results)

    def computeIoU(self, imgId: int, catId: int) -> Any:  # the names of COCO's interface
        """Return the overlaps of one image's boxes of one category, those of higher score first."""
        true, found = self._true.get((imgId, catId)), self._found.get((imgId, catId))
        if not true or not found:
            return []
        ranked = sorted(found, key=lambda result: -result["score"])[: self.params.maxDets[-1]]
        crowds = [thing["iscrowd"] for thing in true]
        return mask.iou([result["bbox"] for result in ranked], [thing["bbox"] for thing in true], crowds)

    def numbers(self) -> list[float]:
        """Return the twelve numbers; -1 where the truth has no object of that kind."""
        self.evaluate()
        self.accumulate()
        self.summarize()
        return [float(value) for value in self.stats[:12]]


def _grouped(things: Sequence[Thing]) -> Groups:
    groups: Groups = defaultdict(list)
    for thing in things:
        groups[thing["image_id"], thing["category_id"]].append(thing)
    return dict(groups)


def _silent(*_: object) -> None:
    """Say nothing: what it prints is in what it returns."""
