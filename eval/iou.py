"""How much boxes overlap.

Letters of shapes: N and M are numbers of boxes, 4 is ``x1, y1, x2, y2``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def matrix(a_N4: Any, b_M4: Any, *, epsilon: float = 0.0) -> Floats:
    """Return the intersection over union of every pair of boxes.

    Boxes that do not touch score 0. A box without area, one that ends before it starts and one with
    a coordinate that is no number score 0 with everything, themselves included: a model must not
    earn by predicting nothing, and no prediction may stop a training run.

    Args:
        a_N4: Boxes, shape ``[N, 4]``, in any units.
        b_M4: Boxes in the same units, shape ``[M, 4]``.
        epsilon: Added to the union, for numbers of code that does so.

    Returns:
        Scores in ``[0, 1]``, shape ``[N, M]``; those of ``(b, a)`` are the transposed ones.

    Source:
        Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 88, 2010, without
        its pixel added to every width. PR1 divides by 0 where a box is turned inside out.

    >>> matrix([[0, 0, 2, 2]], [[1, 0, 3, 2], [5, 5, 6, 6]]).round(3)
    array([[0.333, 0.   ]])
    """
    return _overlap(_boxes(a_N4), _boxes(b_M4), epsilon)[0]


def generalised(a_N4: Any, b_M4: Any) -> Floats:
    """Return the generalised intersection over union of every pair of boxes.

    It is the IoU less the share of the smallest box around both that neither covers, so that boxes
    that do not touch differ by how far they are apart. A pair in which one is no box scores -1.

    Args:
        a_N4: Boxes, shape ``[N, 4]``, in any units.
        b_M4: Boxes in the same units, shape ``[M, 4]``.

    Returns:
        Scores in ``[-1, 1]``, shape ``[N, M]``.

    Source:
        Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.

    >>> generalised([[0, 0, 1, 1]], [[0, 0, 1, 1], [1, 0, 2, 1], [3, 0, 4, 1]]).round(3)
    array([[ 1. ,  0. , -0.5]])
    """
    return both(a_N4, b_M4)[1]


def both(a_N4: Any, b_M4: Any) -> tuple[Floats, Floats]:
    """Return what ``matrix`` and ``generalised`` do, in one go."""
    a_N4, b_M4 = _boxes(a_N4), _boxes(b_M4)
    iou_NM, union_NM, valid_NM = _overlap(a_N4, b_M4)
    with np.errstate(all="ignore"):
        width_NM = np.maximum.outer(a_N4[:, 2], b_M4[:, 2]) - np.minimum.outer(a_N4[:, 0], b_M4[:, 0])
        height_NM = np.maximum.outer(a_N4[:, 3], b_M4[:, 3]) - np.minimum.outer(a_N4[:, 1], b_M4[:, 1])
        hull_NM = width_NM * height_NM
        score_NM = iou_NM - (hull_NM - union_NM) / hull_NM
    return iou_NM, _bounded(score_NM, valid_NM, low=-1.0)


def areas(boxes_N4: Any) -> Floats:
    """Return the areas of boxes, shape ``[N]``; 0 for what is no box."""
    return _areas(_boxes(boxes_N4))


def _boxes(given: Any) -> Floats:
    return np.asarray(given, dtype=np.float64).reshape(-1, 4)


def _areas(boxes_N4: Floats) -> Floats:
    with np.errstate(all="ignore"):
        width_N, height_N = boxes_N4[:, 2] - boxes_N4[:, 0], boxes_N4[:, 3] - boxes_N4[:, 1]
        area_N = width_N * height_N
    is_box_N = (width_N > 0) & (height_N > 0) & np.isfinite(area_N)
    return np.where(is_box_N, area_N, 0.0)


def _overlap(a_N4: Floats, b_M4: Floats, epsilon: float = 0.0) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return IoU, union and whether both are boxes, each of shape ``[N, M]``.

    Width and height apart: numpy is slow along an axis of length two.
    """
    area_N, area_M = _areas(a_N4), _areas(b_M4)
    with np.errstate(all="ignore"):
        width_NM = np.minimum.outer(a_N4[:, 2], b_M4[:, 2]) - np.maximum.outer(a_N4[:, 0], b_M4[:, 0])
        height_NM = np.minimum.outer(a_N4[:, 3], b_M4[:, 3]) - np.maximum.outer(a_N4[:, 1], b_M4[:, 1])
        inter_NM = np.maximum(width_NM, 0.0) * np.maximum(height_NM, 0.0)
        union_NM = np.add.outer(area_N, area_M) - inter_NM
        ratio_NM = inter_NM / (union_NM + epsilon)
    valid_NM = np.logical_and.outer(area_N > 0, area_M > 0)
    return _bounded(ratio_NM, valid_NM, low=0.0), union_NM, valid_NM


def _bounded(score_NM: Floats, valid_NM: NDArray[np.bool_], *, low: float) -> Floats:
    """Return scores between ``low`` and 1, and ``low`` for what is no number or no pair of boxes."""
    usable_NM = valid_NM & ~np.isnan(score_NM)
    return np.where(usable_NM, np.minimum(np.maximum(score_NM, low), 1.0), low)
