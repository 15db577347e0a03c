"""Bars along time and along shares, as SVG in percent: they fit any width and need no styles of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from eval.significance import Interval
from eval.timeline import Lane, Mark, seconds

LANE_PX, BAR_PX = 18, 22
SHAPES = {
    "fault": "M0-5.5 5.5 4.5-5.5 4.5Z",
    "drain": "M-4.5-4.5H4.5V4.5H-4.5Z",
    "checkpoint": "M0-4.5 4.5 0 0 4.5-4.5 0Z",
}


def lane(found: Lane) -> Markup:
    """Return one role's starts and ends over the time of the run."""
    shape = '<rect class="bar {kind}" x="{x:.2f}%" width="{w:.2f}%" y="2" height="14" rx="3"><title>{t}</title></rect>'
    bars = (
        Markup(shape).format(
            kind=bar.kind, x=100 * bar.left, w=100 * bar.width, t=f"{seconds(bar.seconds)}: {bar.note}"
        )
        for bar in found.bars
    )
    return _drawing(Markup("").join(bars), LANE_PX, "track")


def marks(found: Sequence[Mark]) -> Markup:
    """Return the moments of a run over its time; each kind has a shape of its own, not only a colour."""
    shape = '<svg class="mark-{k}" x="{x:.2f}%" y="9" overflow="visible"><path d="{d}"/><title>{t}</title></svg>'
    symbols = (
        Markup(shape).format(k=mark.kind, x=100 * mark.left, d=SHAPES[mark.kind], t=mark.text)
        for mark in sorted(found, key=lambda mark: mark.kind == "fault")
    )
    return _drawing(Markup("").join(symbols), LANE_PX, "track marks")


def symbol(kind: str) -> Markup:
    """Return the sign of a kind of mark, for a legend."""
    frame = 'viewBox="-7 -7 14 14" width="12" height="12" aria-hidden="true"'
    shape = f'<svg class="mark-{{k}}" {frame}><path d="{{d}}"/></svg>'
    return Markup(shape).format(k=kind, d=SHAPES[kind])


def shares(parts: Mapping[str, float]) -> Markup:
    """Return one bar cut into shares, each with the class ``c-<name>``; what is nothing is left out."""
    shape = '<rect class="c-{name}" x="{x:.2f}%" width="{w:.2f}%" height="{h}"><title>{t}</title></rect>'
    whole, left = sum(parts.values()), 0.0
    pieces = []
    for name, value in parts.items():
        share = 100 * value / whole if whole else 0.0
        if share > 0:
            told = f"{name.replace('_', ' ')}: {seconds(value)}, {share:.1f} %"
            pieces.append(Markup(shape).format(name=name, x=left, w=share, h=BAR_PX, t=told))
        left += share
    return _drawing(Markup("").join(pieces), BAR_PX, "shares")


def whiskers(intervals: Sequence[Interval]) -> Markup:
    """Return shares with their intervals on one scale from 0 to 1."""
    known = [(k, i) for k, i in enumerate(intervals) if i.estimate == i.estimate]
    rows = (
        Markup(
            '<rect class="range s{k}" x="{low:.1f}%" width="{w:.1f}%" y="{bar}" height="6" rx="3"/>'
            '<circle class="point s{k}" cx="{at:.1f}%" cy="{middle}" r="5.5"/>'
        ).format(
            k=k % 8,
            low=100 * i.low,
            w=100 * (i.high - i.low),
            at=100 * i.estimate,
            bar=20 * row + 7,
            middle=20 * row + 10,
        )
        for row, (k, i) in enumerate(known)
    )
    return _drawing(Markup("").join(rows), 20 * len(known), "scale")


def _drawing(content: Markup, height: int, css: str) -> Markup:
    return Markup('<svg class="{css}" width="100%" height="{h}" aria-hidden="true">{content}</svg>').format(
        css=css, h=height, content=content
    )
