"""Line charts as SVG text, small enough to put dozens on a page and readable without a script.

The page's own script reads the numbers beside each chart to show them under the pointer. Colours
and fonts are the page's: every mark has a class and no colour of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 26
SMOOTH_FROM = 20
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line.

    Attributes:
        name: For the legend and the pointer.
        points: ``(x, y)``, x ascending, all finite.
    """

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A range and the round numbers in it."""

    low: float
    high: float
    ticks: tuple[float, ...]


def lines(series: Sequence[Series], *, band: tuple[Series, Series] | None = None, x_name: str = "step") -> Markup:
    """Return a chart of the series that have points; empty text if none has.

    A line of 20 points or more is drawn faint, with its running mean over it.

    Args:
        series: At most three, which is what eyes can follow.
        band: Lower and upper edge of an area behind the lines.
        x_name: What the horizontal axis counts.
    """
    drawn = [one for one in series if one.points]
    if not drawn:
        return Markup()
    edges = list(band) if band and band[0].points and band[1].points else []
    points = [point for one in (*drawn, *edges) for point in one.points]
    x = Axis(low=min(p[0] for p in points), high=max(p[0] for p in points), ticks=())
    x = Axis(low=x.low, high=x.high if x.high > x.low else x.low + 1, ticks=_whole_ticks(x.low, x.high))
    y = axis([p[1] for p in points])
    parts = [_grid(x, y), _area(edges, x, y), *(_line(one, k, x, y) for k, one in enumerate(drawn))]
    label = ", ".join(f"{one.name}: {short(one.points[0][1])} to {short(one.points[-1][1])}" for one in drawn)
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{label}" data-chart="{data}">{parts}</svg>'
    ).format(w=WIDTH, h=HEIGHT, label=label, data=_data(drawn, x, y, x_name), parts=Markup("").join(parts))


def axis(values: Sequence[float], ticks: int = 4) -> Axis:
    """Return a range of round numbers that holds all values.

    Zero is included when the values come near it, so that a small change does not look like a
    large one; equal values stand in the middle, and nothing but zeros at the bottom.
    """
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.1 * abs(low), high + 0.1 * abs(high) if high else 1.0
    if 0 < low < 0.4 * high:
        low = 0.0
    if 0 > high > 0.4 * low:
        high = 0.0
    step = _round_step((high - low) / ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(low=first * step, high=last * step, ticks=tuple(k * step for k in range(first, last + 1)))


def running_mean(points: Sequence[Point]) -> list[Point]:
    """Return the centred mean over a tenth of the points; at the ends over those that there are."""
    half = max(1, len(points) // 20)
    result = []
    for k, (x, _) in enumerate(points):
        window = points[max(0, k - half) : k + half + 1]
        result.append((x, math.fsum(y for _, y in window) / len(window)))
    return result


def drawn_points(series: Series) -> Sequence[Point]:
    """Return the points of the bold line: the running mean, or the values themselves if they are few."""
    return running_mean(series.points) if len(series.points) >= SMOOTH_FROM else series.points


def short(value: float) -> str:
    """Return a number in at most five characters or so.

    >>> short(0.12345), short(1234.5), short(2_500_000), short(1e-6), short(0)
    ('0.123', '1234', '2.5M', '1e-06', '0')
    """
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(m for m in (1, 2, 2.5, 5, 10) if m * power >= step * (1 - 1e-9)) * power


def _whole_ticks(low: float, high: float) -> tuple[float, ...]:
    step = max(1.0, _round_step(max(high - low, 1) / 5))
    step = math.ceil(step)
    ticks = [float(k * step) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return tuple(ticks)


def _x(value: float, x: Axis) -> float:
    return LEFT + (value - x.low) / (x.high - x.low) * (WIDTH - LEFT - RIGHT)


def _y(value: float, y: Axis) -> float:
    return HEIGHT - BOTTOM - (value - y.low) / (y.high - y.low) * (HEIGHT - TOP - BOTTOM)


def _grid(x: Axis, y: Axis) -> Markup:
    rules = [
        Markup(
            '<line class="rule{zero}" x1="{x1}" x2="{x2}" y1="{y:.1f}" y2="{y:.1f}"/>'
            '<text class="tick" x="{tx}" y="{ty:.1f}" text-anchor="end">{text}</text>'
        ).format(
            zero=" zero" if tick == 0 else "",
            x1=LEFT,
            x2=WIDTH - RIGHT,
            y=_y(tick, y),
            tx=LEFT - 6,
            ty=_y(tick, y) + 3.5,
            text=short(round(tick, 12)),
        )
        for tick in y.ticks
    ]
    names = [
        Markup('<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{text}</text>').format(
            x=_x(tick, x), y=HEIGHT - 8, text=short(tick)
        )
        for tick in x.ticks
    ]
    return Markup("").join([*rules, *names])


def _area(edges: Sequence[Series], x: Axis, y: Axis) -> Markup:
    if not edges:
        return Markup()
    outline = [*edges[0].points, *reversed(edges[1].points)]
    return Markup('<polygon class="band" points="{}"/>').format(_path(outline, x, y))


def _line(series: Series, index: int, x: Axis, y: Axis) -> Markup:
    smooth = len(series.points) >= SMOOTH_FROM
    bold = drawn_points(series)
    faint = Markup('<polyline class="line s{k} faint" points="{p}"/>').format(k=index, p=_path(series.points, x, y))
    line = Markup('<polyline class="line s{k}" points="{p}"/>').format(k=index, p=_path(bold, x, y))
    end = Markup('<circle class="dot s{k}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>').format(
        k=index, x=_x(bold[-1][0], x), y=_y(bold[-1][1], y)
    )
    return (faint + line if smooth else line) + end


def _path(points: Sequence[Point], x: Axis, y: Axis) -> str:
    return " ".join(f"{_x(a, x):.1f},{_y(b, y):.1f}" for a, b in points)


def _data(series: Sequence[Series], x: Axis, y: Axis, x_name: str) -> str:
    return json.dumps(
        {
            "x": [x.low, x.high],
            "y": [y.low, y.high],
            "box": [LEFT, RIGHT, TOP, BOTTOM],
            "name": x_name,
            "series": [{"name": s.name, "points": [[a, float(f"{b:.5g}")] for a, b in s.points]} for s in series],
        },
        allow_nan=False,
        separators=(",", ":"),
    )


def legend(names: Sequence[str]) -> Markup:
    """Return the legend of several lines; a single line is named by its title."""
    if len(names) < 2:
        return Markup()
    keys = (Markup('<span><i class="key s{}"></i>{}</span>').format(k, escape(name)) for k, name in enumerate(names))
    return Markup('<div class="legend">{}</div>').format(Markup("").join(keys))
