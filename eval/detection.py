"""Detection: a list of boxes with names against all things of an image.

Letters of shapes: P predictions, G true things, K pairs of both.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from eval import box_text, coco, iou
from eval.box_text import Labelled
from eval.matching import Floats, Matching, Places, pairs
from eval.target import Box, Space, System, Target

# What a pair costs: the distance of its boxes, less their generalised overlap, less agreement in the name.
DISTANCE_COST, OVERLAP_COST, NAME_COST = 5.0, 2.0, 1.0
SMALL_PX2, MEDIUM_PX2 = 32.0**2, 96.0**2


@dataclass(frozen=True, kw_only=True)
class Scales:
    """What a full share of each part adds to the reward.

    Attributes:
        format: Of well-formed entries.
        f1: Of precision and recall.
        label: Of pairs with the right name.
        iou: Of overlap within pairs.
        penalty: Taken off for superfluous predictions, and again for missed things. Published 0.5, and
            turned off in the published script; the paper's detection numbers are with it.
        coverage: Of things of each kind that were named often enough, wherever.
    """

    format: float = 0.25
    f1: float = 0.75
    label: float = 1.0
    iou: float = 1.0
    penalty: float = 0.0
    coverage: float = 0.0

    @property
    def most_without_coverage(self) -> float:
        """Where the sum of all other parts is clamped; 3 as published."""
        return self.format + self.f1 + self.label + self.iou

    @property
    def most(self) -> float:
        """The largest reward; the smallest is 0."""
        return self.most_without_coverage + self.coverage


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How an answer is compared; the defaults are the published ones.

    Attributes:
        classes: The names there are; an entry with another one is malformed.
        scales: What each part is worth.
        matching: How predictions are paired with truths.
        iou_above: The overlap that a pair must exceed to count.
        size_weights: Small and medium things weigh three and two times a large one in ``iou``.
        faithful: See ``score``.
    """

    classes: tuple[str, ...] = coco.NAMES
    scales: Scales = Scales()
    matching: Matching = "hungarian"
    iou_above: float = 0.5
    size_weights: bool = False
    faithful: bool = False


PUBLISHED = Rules()


@dataclass(frozen=True, kw_only=True)
class DetectionScore:
    """One answer against the truth; every part is a share in ``[0, 1]``.

    Attributes:
        items: Names and boxes that count as predictions, in the units of the model.
        true: How many things there are to be found.
        matched: How many of them were.
        format: Of the entries that are well formed; 0 if the answer is no JSON list.
        f1: Twice the pairs over predictions and truths.
        label: Of pairs whose names agree.
        iou: Mean overlap of pairs.
        superfluous: Of predictions that found nothing.
        missed: Of things that nothing found.
        coverage: Over kinds of things, the mean share that was named, wherever.
        reward: The parts weighed, from 0 to ``Scales.most``.
    """

    items: tuple[tuple[str, Box], ...] = ()
    true: int = 0
    matched: int = 0
    format: float = 0.0
    f1: float = 0.0
    label: float = 0.0
    iou: float = 0.0
    superfluous: float = 0.0
    missed: float = 0.0
    coverage: float = 0.0
    reward: float = 0.0

    def parts(self) -> dict[str, float]:
        """Return numbers by name."""
        names = ("format", "f1", "label", "iou", "superfluous", "missed", "coverage", "reward")
        return {name: float(getattr(self, name)) for name in names}


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """Predictions and truths side by side."""

    items: tuple[tuple[str, Box], ...]
    boxes_P4: Floats
    truths_G4: Floats
    labels: tuple[str, ...]
    sides_px: tuple[int, int]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.items]


def score(response: str, target: Target, coordinates: System, rules: Rules = PUBLISHED) -> DetectionScore:
    """Return what the boxes and names of the response are worth against the truth.

    An entry counts as a prediction if it has a known name, in capitals or not, and four numbers that are a
    box; any other lowers ``format`` and costs nothing else. Predictions and truths are paired so that distances of
    boxes, overlaps and names cost least together, and pairs that overlap enough count.

    - Where there is nothing to find, an empty list earns everything, and anything else its form only.
    - Where there is something, an empty list earns nothing: nobody earns by predicting nothing.
    - Predictions of which none finds anything earn their form, without penalty: early in training
      there is nothing else to be learnt from.
    - A truth without labels asks for boxes only, so every pair agrees in its name.

    Args:
        response: The decoded response, JSON as in ``box_text.labelled``.
        target: The truth: boxes and labels.
        coordinates: The units that the model writes.
        rules: How to compare. With ``faithful`` as published: distances count in pixels, next to which
            overlaps and names are nothing, and each name is taken for its neighbour in the list; one
            entry with a known name whose box is none, or with the last of COCO's 90 numbers, and
            the whole response is worth 0; where there is nothing to find everybody earns the form;
            text around the list, or an answer tag, is no JSON; the odd formula of size weights.

    Source:
        PR1, src/open_r1/rewards.py:59-174 and utils.py:195-317 at accb7cb. The costs are those of
        Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, where distances are
        shares of the image's sides, as they are here.
    """
    found = box_text.labelled(response, faithful=rules.faithful)
    names = _names(rules.classes, rules.faithful)
    said = tuple((_comparable(name, rules.faithful), box) for name, box in found.items)
    known = tuple(item for item in said if item[0] in names)
    scene = _scene(known if rules.faithful else _boxes_only(known), target, coordinates, rules)
    if rules.faithful and _stumbles(found, scene, rules):
        return DetectionScore(true=len(target.boxes))
    share = len(scene.items) / found.entries if found.entries else 1.0
    return _weighed(scene, share if found.whole else 0.0, rules)


def _comparable(name: str, faithful: bool) -> str:
    return name if faithful else name.strip().casefold()


@lru_cache
def _names(classes: tuple[str, ...], faithful: bool) -> frozenset[str]:
    return frozenset(_comparable(name, faithful) for name in classes)


def _scene(items: tuple[tuple[str, Box], ...], target: Target, coordinates: System, rules: Rules) -> _Scene:
    space = target.space
    of_model = Space(system=coordinates, width_px=space.width_px, height_px=space.height_px)
    written_P4 = np.array([box for _, box in items], dtype=np.float64).reshape(-1, 4)
    return _Scene(
        items=items,
        boxes_P4=of_model.to("pixel", written_P4),
        truths_G4=target.boxes_in("pixel"),
        labels=tuple(_comparable(label, rules.faithful) for label in target.labels),
        sides_px=(space.width_px, space.height_px),
    )


def _boxes_only(items: tuple[tuple[str, Box], ...]) -> tuple[tuple[str, Box], ...]:
    return tuple(item for item in items if item[1][0] < item[1][2] and item[1][1] < item[1][3])


def _weighed(scene: _Scene, form: float, rules: Rules) -> DetectionScore:
    scales, found, true = rules.scales, len(scene.items), len(scene.truths_G4)
    predicted_K, true_K, overlap_K = _pairs(scene, rules)
    matched = len(overlap_K)
    if not matched:
        return _without_pairs(scene, form, rules)
    precision, recall = matched / found, matched / true
    share = DetectionScore(
        items=scene.items,
        true=true,
        matched=matched,
        format=form,
        f1=2 * matched / (found + true),
        label=_agreement(scene, predicted_K, true_K),
        iou=_mean_overlap(overlap_K, scene.truths_G4[true_K], rules),
        superfluous=1 - precision,
        missed=1 - recall,
        coverage=_coverage(scene),
    )
    total = scales.format * form + scales.f1 * share.f1 + scales.label * share.label + scales.iou * share.iou
    total -= scales.penalty * (share.superfluous + share.missed)
    clamped = min(max(total, 0.0), scales.most_without_coverage)
    return replace(share, reward=clamped + scales.coverage * share.coverage)


def _without_pairs(scene: _Scene, form: float, rules: Rules) -> DetectionScore:
    found, true = bool(scene.items), len(scene.truths_G4)
    share = DetectionScore(items=scene.items, true=true, format=form, superfluous=float(found), missed=float(true > 0))
    if found or form < 1:
        return replace(share, reward=rules.scales.format * form)
    if true or rules.faithful:
        return share
    return replace(share, f1=1.0, label=1.0, iou=1.0, coverage=1.0, reward=rules.scales.most)


def _pairs(scene: _Scene, rules: Rules) -> tuple[Places, Places, Floats]:
    """Return the pairs that count, as places of predictions and truths, and their overlaps; each of shape ``[K]``."""
    overlap_PG, generalised_PG = iou.both(scene.boxes_P4, scene.truths_G4)
    agreement_PG = _published_agreement(scene, rules) if rules.faithful else _same_name(scene)
    cost_PG = DISTANCE_COST * _distance(scene, rules) - OVERLAP_COST * generalised_PG - NAME_COST * agreement_PG
    predicted_K, true_K = pairs(cost_PG, rules.matching)
    counts_K = overlap_PG[predicted_K, true_K] > rules.iou_above
    predicted_K, true_K = predicted_K[counts_K], true_K[counts_K]
    return predicted_K, true_K, overlap_PG[predicted_K, true_K]


def _distance(scene: _Scene, rules: Rules) -> Floats:
    """Return the sum of differences of middles, widths and heights, shape ``[P, G]``."""
    unit_4 = np.ones(4) if rules.faithful else np.array(scene.sides_px * 2, dtype=np.float64)
    distance_PG = np.zeros((len(scene.boxes_P4), len(scene.truths_G4)))
    with np.errstate(all="ignore"):
        columns = zip((_middles(scene.boxes_P4) / unit_4).T, (_middles(scene.truths_G4) / unit_4).T, strict=True)
        for found_P, true_G in columns:
            distance_PG += np.abs(np.subtract.outer(found_P, true_G))
    return distance_PG


def _middles(boxes_N4: Floats) -> Floats:
    """Return middles, widths and heights, shape ``[N, 4]``."""
    low_N2, high_N2 = boxes_N4[:, :2], boxes_N4[:, 2:]
    return np.concatenate([(low_N2 + high_N2) / 2, high_N2 - low_N2], axis=1)


def _same_name(scene: _Scene) -> NDArray[np.bool_]:
    """Return which prediction has the name of which truth, shape ``[P, G]``."""
    if not scene.labels:
        return np.ones((len(scene.items), len(scene.truths_G4)), dtype=np.bool_)
    numbers = {name: number for number, name in enumerate(dict.fromkeys([*scene.names, *scene.labels]))}
    named_P = np.array([numbers[name] for name in scene.names], dtype=np.intp)
    labels_G = np.array([numbers[name] for name in scene.labels], dtype=np.intp)
    same_PG: NDArray[np.bool_] = named_P[:, None] == labels_G[None]
    return same_PG


def _agreement(scene: _Scene, predicted_K: Places, true_K: Places) -> float:
    return float(_same_name(scene)[predicted_K, true_K].mean())


def _mean_overlap(overlap_K: Floats, truths_K4: Floats, rules: Rules) -> float:
    if not rules.size_weights:
        return float(overlap_K.mean())
    area_K = iou.areas(truths_K4)
    weight_K = np.select([area_K < SMALL_PX2, area_K < MEDIUM_PX2], [3.0, 2.0], default=1.0)
    if rules.faithful:
        return float((weight_K * overlap_K).sum() / (overlap_K.sum() * len(overlap_K) + 1e-8))
    return float(np.average(overlap_K, weights=weight_K))


def _coverage(scene: _Scene) -> float:
    wanted, said = Counter(scene.labels), Counter(scene.names)
    shares = [min(said[name] / count, 1.0) for name, count in wanted.items()]
    return sum(shares) / len(shares) if shares else 1.0


def _stumbles(found: Labelled, scene: _Scene, rules: Rules) -> bool:
    """Return whether the published code fails on the response, and so gives 0 for all of it."""
    numbers = _published_numbers(rules)
    both_N4 = np.concatenate([scene.boxes_P4, scene.truths_G4])
    if not found.whole or not scene.items or any(name in numbers for name in found.unboxed):
        return True
    is_last = any(numbers[name] == max(numbers.values()) for name in scene.names)
    is_inverted = bool((both_N4[:, 2:] < both_N4[:, :2]).any())
    # Without a truth it returns before it looks at either.
    return bool(len(scene.truths_G4)) and (is_last or is_inverted)


def _published_numbers(rules: Rules) -> dict[str, int]:
    """Return the number of each name: COCO's, or its place counted from 1."""
    if rules.classes == coco.NAMES:
        return coco.IDS
    return {name: place for place, name in enumerate(rules.classes, start=1)}


def _published_agreement(scene: _Scene, rules: Rules) -> Floats:
    """Return the probability that PR1 gives a truth's name by a prediction, shape ``[P, G]``.

    The softmax of one 1 among as many zeros as there are numbers; the prediction's 1 stands at its
    number, the truth is looked up one place before its own.
    """
    numbers = _published_numbers(rules)
    most = max(numbers.values())
    stands_P = np.array([numbers[name] for name in scene.names], dtype=np.intp)
    looked_up_G = np.array([numbers.get(name, 0) - 1 for name in scene.labels], dtype=np.intp)
    if not scene.labels:
        return np.zeros((len(scene.items), len(scene.truths_G4)))
    own = np.where(stands_P[:, None] == looked_up_G[None], np.e, 1.0)
    agreement_PG: Floats = own / (np.e + most - 1)
    return agreement_PG
