"""Which prediction belongs to which truth.

Letters of shapes: P predictions, G true things, K pairs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Matching = Literal["hungarian", "in_order"]
Floats = NDArray[np.float64]
Places = NDArray[np.intp]

# Larger than any sane cost, and small enough that a sum of them is exact enough to compare.
UNBEARABLE = 1e12


def pairs(cost_PG: Floats, matching: Matching = "hungarian") -> tuple[Places, Places]:
    """Return the pairs of predictions and truths, each prediction and each truth in one at most.

    ``hungarian`` finds the pairs with the smallest sum of costs, so the order of either does not
    matter. ``in_order`` pairs the first with the first, which is the ablation "no matching".

    Args:
        cost_PG: What each pair would cost, shape ``[P, G]``. NaN and infinity are as bad as can be.
        matching: How.

    Returns:
        Places of predictions and of truths, each of shape ``[K]`` with K the smaller of P and G.

    Source:
        Kuhn, "The Hungarian method for the assignment problem", 1955; scipy's implementation.

    >>> [places.tolist() for places in pairs(np.array([[9.0, 1.0], [1.0, 9.0]]))]
    [[0, 1], [1, 0]]
    """
    if matching == "in_order":
        both = np.arange(min(cost_PG.shape), dtype=np.intp)
        return both, both
    finite_PG = np.nan_to_num(cost_PG, nan=UNBEARABLE, posinf=UNBEARABLE, neginf=-UNBEARABLE)
    predicted_K, true_K = linear_sum_assignment(np.clip(finite_PG, -UNBEARABLE, UNBEARABLE))
    return predicted_K, true_K
