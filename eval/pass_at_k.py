"""How often at least one of k answers to a problem is right, from n >= k answers to each."""

from __future__ import annotations

import math
from collections.abc import Mapping

from eval.significance import Interval, bootstrap_mean

Counts = Mapping[str, tuple[int, int]]
"""Of every problem how many answers it has, and how many of them are right."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the chance that of ``k`` answers drawn from ``n`` without putting back, at least one is right.

    Its mean over problems is an unbiased estimate of pass@k of the model; ``1 - (1 - c/n)**k`` is not. Computed
    in integers, so that it is exact for any count.

    Args:
        n: Answers to one problem.
        c: Those that are right.
        k: How many are drawn.

    Raises:
        ValueError: Not ``0 <= c <= n`` and ``1 <= k <= n``.

    Source:
        Chen et al., "Evaluating Large Language Models Trained on Code", arXiv:2107.03374, equation 1.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass_at_k: n={n}, c={c}, k={k} is impossible. Give 0 <= c <= n and 1 <= k <= n.")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def steps(counts: Counts) -> list[int]:
    """Return the k worth naming: 1, 2, 4, ... and the fewest answers that any problem has."""
    most = min((n for n, _ in counts.values()), default=0)
    powers = [1 << exponent for exponent in range(most.bit_length()) if 1 << exponent <= most]
    return powers if not most or powers[-1] == most else [*powers, most]


def per_problem(counts: Counts, k: int) -> dict[str, float]:
    """Return pass@k of every problem; NaN where it has fewer than ``k`` answers."""
    return {name: pass_at_k(n, c, k) if n >= k else math.nan for name, (n, c) in counts.items()}


def estimate(counts: Counts, k: int) -> Interval:
    """Return pass@k of a task with its bootstrap interval over the problems that have ``k`` answers."""
    return bootstrap_mean(list(per_problem(counts, k).values()))
