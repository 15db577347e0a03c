"""Charts as SVG text, readable without a script, small enough to put dozens on a page.

The numbers lie beside each chart as JSON; the page's own script draws them again as large as there is room, and
smooths and zooms. Colours and fonts are the page's: every mark has a class and no colour of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

SMALL, WIDE = (360, 190), (760, 260)
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 26
SMOOTH_FROM = 20
DRAWN_MAX = 400
"""More points than that fall on one another at this size; without a script the mean of neighbours is drawn."""
COLOURS = 8
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


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What to draw.

    Attributes:
        series: Lines; eyes follow three, and colours end at eight.
        band: Lower and upper edge of an area behind the lines, both with points.
        stacked: Put the series on top of each other, negative values below zero, and their sum as a line.
        marks: Where on the horizontal axis something happened.
        size: Width and height without a script.
        x_name: What the horizontal axis counts.
    """

    series: Sequence[Series]
    band: tuple[Series, Series] | None = None
    stacked: bool = False
    marks: Sequence[float] = ()
    size: tuple[int, int] = SMALL
    x_name: str = "step"


def svg(chart: Chart) -> Markup:
    """Return the drawing; empty text if no series has points.

    A line of 20 points or more is drawn faint, with its running mean over it; layers of a stack are running means.
    """
    drawn = {k: one for k, one in enumerate(chart.series) if one.points}
    if not drawn:
        return Markup()
    frame, parts = _stack(chart, drawn) if chart.stacked else _lines(chart, drawn)
    ends = ((one.name, one.points[0][1], one.points[-1][1]) for one in drawn.values())
    label = ", ".join(f"{name}: {short(first)} to {short(last)}" for name, first, last in ends)
    shape = '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">{grid}{marks}{parts}</svg>'
    return Markup(shape).format(
        w=chart.size[0],
        h=chart.size[1],
        label=label,
        grid=frame.grid(),
        marks=frame.marks(chart.marks),
        parts=Markup("").join(parts),
    )


def data(chart: Chart) -> Markup:
    """Return the numbers as JSON that can stand in a ``<script>``, for the page's own script."""
    known = {
        "name": chart.x_name,
        "stacked": chart.stacked,
        "marks": list(chart.marks),
        "series": [{"colour": k % COLOURS} | _numbers(one) for k, one in enumerate(chart.series) if one.points],
        "band": [_numbers(one) for one in chart.band] if chart.band else None,
    }
    return embedded(known)


def embedded(value: Any) -> Markup:
    """Return JSON in which nothing can end the ``<script>`` around it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


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
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    result = []
    for k, (x, _) in enumerate(points):
        first, last = max(0, k - half), min(len(points), k + half + 1)
        result.append((x, (sums[last] - sums[first]) / (last - first)))
    return result


def drawn_points(series: Series) -> Sequence[Point]:
    """Return the points of the bold line: the running mean, or the values themselves if they are few."""
    return running_mean(series.points) if len(series.points) >= SMOOTH_FROM else series.points


def thinned(points: Sequence[Point], most: int = DRAWN_MAX) -> list[Point]:
    """Return at most so many points, each the mean of neighbours; the last one stays where it is."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / (most - 1))
    groups = [points[k : k + size] for k in range(0, len(points), size)]
    means = [(math.fsum(x for x, _ in of) / len(of), math.fsum(y for _, y in of) / len(of)) for of in groups]
    return [*means[:-1], points[-1]]


def stack(series: Sequence[Series]) -> tuple[list[list[tuple[float, float, float]]], list[Point]]:
    """Return, of every layer, ``(x, lower, upper)``, and the sum of all.

    Where a series has no value it adds nothing. Negative values hang below zero, each below the one before.
    """
    places = sorted({x for one in series for x, _ in one.points})
    above, below = dict.fromkeys(places, 0.0), dict.fromkeys(places, 0.0)
    layers = []
    for one in series:
        known, layer = dict(one.points), []
        for x in places:
            value = known.get(x, 0.0)
            side = above if value >= 0 else below
            start, side[x] = side[x], side[x] + value
            layer.append((x, min(start, side[x]), max(start, side[x])))
        layers.append(layer)
    return layers, [(x, above[x] + below[x]) for x in places]


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


def legend(names: Sequence[str], *, always: bool = False) -> Markup:
    """Return the legend of several lines; a single line is named by its title."""
    if len(names) < 2 and not always:
        return Markup()
    keys = (Markup('<span><i class="key s{}"></i>{}</span>').format(k % COLOURS, name) for k, name in enumerate(names))
    return Markup('<div class="legend">{}</div>').format(Markup("").join(keys))


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Where values lie on the drawing."""

    x: Axis
    y: Axis
    width: int
    height: int

    @classmethod
    def around(cls, xs: Sequence[float], ys: Sequence[float], size: tuple[int, int]) -> _Frame:
        low, high = min(xs), max(xs)
        x = Axis(low=low, high=high if high > low else low + 1, ticks=_whole_ticks(low, high))
        return cls(x=x, y=axis(ys), width=size[0], height=size[1])

    def across(self, value: float) -> float:
        return LEFT + (value - self.x.low) / (self.x.high - self.x.low) * (self.width - LEFT - RIGHT)

    def down(self, value: float) -> float:
        share = (value - self.y.low) / (self.y.high - self.y.low)
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)

    def path(self, points: Iterable[Point]) -> str:
        return " ".join(f"{self.across(a):.1f},{self.down(b):.1f}" for a, b in points)

    def grid(self) -> Markup:
        rules = [
            Markup(
                '<line class="rule{zero}" x1="{x1}" x2="{x2}" y1="{y:.1f}" y2="{y:.1f}"/>'
                '<text class="tick" x="{tx}" y="{ty:.1f}" text-anchor="end">{text}</text>'
            ).format(
                zero=" zero" if tick == 0 else "",
                x1=LEFT,
                x2=self.width - RIGHT,
                y=self.down(tick),
                tx=LEFT - 6,
                ty=self.down(tick) + 3.5,
                text=short(round(tick, 12)),
            )
            for tick in self.y.ticks
        ]
        names = [
            Markup('<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{text}</text>').format(
                x=self.across(tick), y=self.height - 8, text=short(tick)
            )
            for tick in self.x.ticks
        ]
        return Markup("").join([*rules, *names])

    def marks(self, places: Sequence[float]) -> Markup:
        inside = (self.across(place) for place in places if self.x.low <= place <= self.x.high)
        line = '<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
        return Markup("").join(Markup(line).format(x=x, top=TOP, bottom=self.height - BOTTOM) for x in inside)

    def polyline(self, points: Sequence[Point], css: str) -> Markup:
        return Markup('<polyline class="line {css}" points="{p}"/>').format(css=css, p=self.path(thinned(points)))

    def area(self, lower: Sequence[Point], upper: Sequence[Point], css: str) -> Markup:
        outline = [*thinned(lower), *reversed(thinned(upper))]
        return Markup('<polygon class="{css}" points="{p}"/>').format(css=css, p=self.path(outline))

    def dot(self, point: Point, index: int) -> Markup:
        return Markup('<circle class="dot s{k}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>').format(
            k=index % COLOURS, x=self.across(point[0]), y=self.down(point[1])
        )


def _lines(chart: Chart, drawn: Mapping[int, Series]) -> tuple[_Frame, list[Markup]]:
    edges = list(chart.band or ())
    points = [point for one in (*drawn.values(), *edges) for point in one.points]
    frame = _Frame.around([x for x, _ in points], [y for _, y in points], chart.size)
    area = [frame.area(edges[0].points, edges[1].points, "band")] if edges else []
    return frame, area + [mark for k, one in drawn.items() for mark in _line(frame, one, k)]


def _line(frame: _Frame, one: Series, index: int) -> list[Markup]:
    colour, bold = f"s{index % COLOURS}", drawn_points(one)
    faint = [frame.polyline(one.points, f"{colour} faint")] if len(one.points) >= SMOOTH_FROM else []
    return [*faint, frame.polyline(bold, colour), frame.dot(bold[-1], index)]


def _stack(chart: Chart, drawn: Mapping[int, Series]) -> tuple[_Frame, list[Markup]]:
    layers, total = stack([Series(name=one.name, points=drawn_points(one)) for one in drawn.values()])
    values = [edge for layer in layers for _, low, high in layer for edge in (low, high)]
    frame = _Frame.around([x for x, _ in total], [0.0, *values], chart.size)
    areas = [
        frame.area([(x, low) for x, low, _ in layer], [(x, high) for x, _, high in layer], f"layer s{k % COLOURS}")
        for k, layer in zip(drawn, layers, strict=True)
    ]
    return frame, [*areas, frame.polyline(total, "sum")]


def _numbers(one: Series) -> dict[str, Any]:
    places = [int(x) if x == int(x) else x for x, _ in one.points]
    return {"name": one.name, "x": places, "y": [float(f"{y:.5g}") for _, y in one.points]}


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(m for m in (1, 2, 2.5, 5, 10) if m * power >= step * (1 - 1e-9)) * power


def _whole_ticks(low: float, high: float) -> tuple[float, ...]:
    step = math.ceil(max(1.0, _round_step(max(high - low, 1) / 5)))
    return tuple(float(k * step) for k in range(math.ceil(low / step), math.floor(high / step) + 1))
