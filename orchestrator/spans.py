"""Spans of time as pairs of begin and end, and what can be computed with lists of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

Span = tuple[float, float]
"""Begin and end, Unix time, seconds; the end is not part of it."""


def uncovered(spans: Iterable[Span], taken: Sequence[Span]) -> list[Span]:
    """Return what of the spans nothing taken, and no earlier one of them, covers.

    >>> uncovered([(0, 10), (8, 12)], [(2, 4)])
    [(0, 2), (4, 10), (10, 12)]
    """
    cursor = float("-inf")
    found: list[Span] = []
    busy = sorted(taken)
    for begin, end in sorted(spans):
        at = max(begin, cursor)
        for other_begin, other_end in busy:
            if other_end <= at or other_begin >= end:
                continue
            if other_begin > at:
                found.append((at, other_begin))
            at = max(at, other_end)
        if at < end:
            found.append((at, end))
        cursor = max(cursor, end)
    return found


def cut(spans: Iterable[Span], edges: Sequence[float]) -> Iterator[Span]:
    """Yield the spans in pieces, cut at the edges that lie inside them."""
    for begin, end in spans:
        inner = [edge for edge in edges if begin < edge < end]
        yield from zip([begin, *inner], [*inner, end], strict=True)


def overlap(spans: Iterable[Span], others: Sequence[Span]) -> list[Span]:
    """Return what two lists of spans have in common, a piece for every pair that meets."""
    return [
        (max(begin, other_begin), min(end, other_end))
        for begin, end in spans
        for other_begin, other_end in others
        if max(begin, other_begin) < min(end, other_end)
    ]


def covers(spans: Iterable[Span], at: float) -> bool:
    """Return whether a moment lies in one of the spans."""
    return any(begin <= at < end for begin, end in spans)


def length(spans: Iterable[Span]) -> float:
    """Return the sum of the spans' lengths."""
    return sum(end - begin for begin, end in spans)
