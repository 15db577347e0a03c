"""Accuracy by subject, problem version, split: the numbers papers print in columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from eval.significance import wilson
from eval.tasks.kind import Row


def accuracy_by(rows: Sequence[Row]) -> dict[str, Any]:
    """Return ``{"by": {name: {label: share}}}`` over the labels in ``meta["by"]``, or nothing without labels.

    A problem with a list of labels counts under each. One that could not be checked is counted in
    ``unchecked`` and left out of the share.
    """
    grouped: dict[str, dict[str, list[bool | None]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for name, labels in (row.get("meta") or {}).get("by", {}).items():
            for label in labels if isinstance(labels, list) else [labels]:
                grouped[name][str(label)].append(row["correct"])
    by = {name: {label: share(of[label]) for label in sorted(of)} for name, of in grouped.items()}
    return {"by": by} if by else {}


def share(values: Sequence[bool | None]) -> dict[str, Any]:
    """Return how many are right, with Wilson's interval; ``accuracy`` is None if none could be checked."""
    checked = [value for value in values if value is not None]
    interval = wilson(sum(checked), len(checked))
    return {
        "n": len(values),
        "unchecked": len(values) - len(checked),
        "accuracy": interval.estimate if checked else None,
        "low": interval.low,
        "high": interval.high,
    }
