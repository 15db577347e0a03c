"""Numbers about the judge: how long it takes, how often it fails, what it costs."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence

WINDOW = 256
ENOUGH = 20


class Deadline:
    """Time for one request: three times the 95th percentile of the latest latencies, within bounds.

    Until there are enough latencies to speak of a percentile it is the upper bound: the first
    requests meet a server that is still warming up.
    """

    def __init__(self, *, min_s: float, max_s: float) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self._latencies_s: deque[float] = deque(maxlen=WINDOW)

    def observe(self, latency_s: float) -> None:
        """Note one latency; of a request that was given up, the time after which it was.

        Without the latter a judge that became slower would fail every deadline for ever.
        """
        self._latencies_s.append(latency_s)

    def p95_s(self) -> float | None:
        """Return the 95th percentile of the latest latencies, None until there are enough of them."""
        return quantile(list(self._latencies_s), 0.95) if len(self._latencies_s) >= ENOUGH else None

    def now_s(self) -> float:
        """Return the deadline for a request that begins now."""
        p95_s = self.p95_s()
        return self._max_s if p95_s is None else min(self._max_s, max(self._min_s, 3 * p95_s))


class Stats:
    """Counts since the last time they were taken."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._latencies_s: list[float] = []

    def count(self, what: str, amount: int = 1) -> None:
        """Add to one of these, where a request that was sent a second time is one.

        ``rows skipped verdicts missing cached mismatched requests retries hedged tokens_in tokens_out``
        """
        self._counts[what] += amount

    def latency(self, latency_s: float) -> None:
        """Note how long one answered request took."""
        self._latencies_s.append(latency_s)

    def take(self) -> dict[str, float]:
        """Return the metrics since the last call, and begin anew. Without a request latencies are left out."""
        counts, latencies_s = self._counts, self._latencies_s
        self._counts, self._latencies_s = Counter(), []
        metrics = {
            "judge/requests": float(counts["requests"]),
            "judge/tokens_in": float(counts["tokens_in"]),
            "judge/tokens_out": float(counts["tokens_out"]),
            "judge/skipped_frac": _share(counts["skipped"], counts["rows"]),
            "judge/nan_frac": _share(counts["missing"], counts["verdicts"]),
            "judge/cache_hit": _share(counts["cached"], counts["verdicts"]),
            "judge/mismatch_frac": _share(counts["mismatched"], counts["verdicts"]),
            "judge/retry_frac": _share(counts["retries"], counts["requests"]),
            "judge/hedged_frac": _share(counts["hedged"], counts["requests"]),
        }
        if latencies_s:
            metrics |= {
                "judge/latency_p50": quantile(latencies_s, 0.5),
                "judge/latency_p95": quantile(latencies_s, 0.95),
                "judge/latency_p99": quantile(latencies_s, 0.99),
                "judge/latency_max": max(latencies_s),
            }
        return metrics


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed.

    >>> quantile([4.0, 1.0, 3.0, 2.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
