"""Which of the trainer's numbers are drawn, and in which words; of one run, or of several on top of each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from eval.record import Row, Steps, number
from eval.report import chart
from eval.report.chart import Chart, Series

BAND = ("critic/rewards/min", "critic/rewards/max")
PART = "reward/"
PARTS = {
    "accuracy": "share of right answers",
    "visual_perception": "share of facts the judge found",
    "format": "share in the required form",
    "repetition": "0 is none; below is a penalty",
}
"""What the mean of a built-in reward says; of others nothing is known but the name."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One chart to draw.

    Attributes:
        title: Its heading.
        lines: For every line its metric and its name.
        note: The unit, or what a reader must know.
        band: Metrics of the lower and the upper edge of a shaded area.
    """

    title: str
    lines: Mapping[str, str]
    note: str = ""
    band: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart, drawn.

    Attributes:
        title: Its heading.
        note: Small print beside the heading.
        latest: The first line's last value, smoothed if the line is.
        legend: Names of the lines, if there are several.
        svg: The drawing.
        data: Its numbers as JSON for the page's script.
        wide: Takes a row of its own.
        constant: The value, if it never changed and a drawing would show nothing.
    """

    title: str
    note: str
    latest: str
    legend: Markup = field(default=Markup())
    svg: Markup = field(default=Markup())
    data: Markup = field(default=Markup())
    wide: bool = False
    constant: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Charts that belong together.

    Attributes:
        figures: What is drawn.
        constant: What never changed and needs no drawing: its title and its value.
    """

    figures: tuple[Figure, ...]
    constant: tuple[tuple[str, str], ...] = ()


def _hidden(row: Row) -> float:
    """Return the least share of a step's judging that sampling hid.

    Judging takes at least as long as its slowest request, so the true share is this or more.
    """
    waited_s, slowest_s = number(row.get("judge/wait_after_gen_s")), number(row.get("judge/latency_max"))
    return max(0.0, 1 - waited_s / slowest_s) if slowest_s > 0 else math.nan


DERIVED: Mapping[str, Callable[[Row], float]] = {"hidden": _hidden}
TOTAL = Curve(title="Total reward", lines={"critic/rewards/mean": "mean"}, note="shade: lowest to highest", band=BAND)
LENGTH = Curve(title="Response length", lines={"response_length/mean": "tokens"}, note="tokens, mean")
SECTIONS: Mapping[str, tuple[Curve, ...]] = {
    "Optimisation": (
        Curve(title="Policy loss", lines={"actor/pg_loss": "loss"}, note="its level says little"),
        Curve(title="Gradient norm", lines={"actor/grad_norm": "norm"}, note="before clipping"),
        Curve(title="Entropy", lines={"actor/entropy": "entropy"}, note="nats per token"),
        Curve(title="Clipped tokens", lines={"actor/pg_clipfrac": "share"}, note="share"),
        Curve(
            title="KL to the start",
            lines={"actor/kl_loss": "KL", "actor/reward_kl_penalty": "KL"},
            note="nats per token",
        ),
        Curve(title="Learning rate", lines={"actor/lr": "rate"}),
        Curve(
            title="Groups without spread",
            lines={"critic/zero_spread_groups": "share"},
            note="share; they teach nothing",
        ),
        Curve(title="Cut off", lines={"response_length/clip_ratio": "share"}, note="share that hit the longest length"),
        Curve(
            title="Engine and trainer",
            lines={"actor/engine_logprob_difference": "difference"},
            note="mean difference of log-probabilities",
        ),
    ),
    "Judge": (
        Curve(
            title="Judge latency",
            lines={
                "judge/latency_p50": "median",
                "judge/latency_p95": "95th percentile",
                "judge/latency_p99": "99th percentile",
            },
            note="seconds",
        ),
        Curve(title="Hidden share", lines={"hidden": "share"}, note="share of judging behind sampling, at least"),
        Curve(
            title="Waiting after generation",
            lines={"judge/wait_after_gen_s": "seconds"},
            note="seconds of judging that nothing hides",
        ),
        Curve(title="Missing verdicts", lines={"judge/nan_frac": "share"}, note="share of samples"),
        Curve(title="Answered from the cache", lines={"judge/cache_hit": "share"}, note="share of verdicts"),
        Curve(title="Asked again", lines={"judge/retry_frac": "share"}, note="share of requests"),
        Curve(title="Judge absent", lines={"judge/breaker_open_s": "seconds"}, note="seconds per step"),
    ),
    "Speed": (
        Curve(
            title="Time per step",
            lines={"timing_s/step": "step", "timing_s/gen": "generation", "timing_s/update_actor": "update"},
            note="seconds",
        ),
        Curve(title="Throughput", lines={"perf/throughput": "tokens/s"}, note="tokens per second"),
        Curve(title="MFU of the update", lines={"perf/mfu/actor": "MFU"}, note="share of what the GPUs can do"),
    ),
}


def figures(steps: Steps, weights: Mapping[str, float], marks: Sequence[float] = ()) -> dict[str, Section]:
    """Return every chart of a run that has data, by section; sections without any are left out.

    Args:
        steps: The trainer's metrics.
        weights: What one point of each reward adds to the total; empty if that is not known.
        marks: Steps before which training was interrupted.
    """
    rewards = [_draw(curve, steps, marks) for curve in (TOTAL, *_parts([steps]), LENGTH)]
    drawn = {"Rewards": [_stacked(steps, weights, marks), *rewards]}
    drawn |= {name: [_draw(curve, steps, marks) for curve in curves] for name, curves in SECTIONS.items()}
    return _present(drawn)


def compared(runs: Mapping[str, Steps]) -> dict[str, Section]:
    """Return a chart for every metric that is the first of a curve, with one line a run."""
    sections = {"Rewards": (TOTAL, *_parts(list(runs.values())), LENGTH), **SECTIONS}
    return _present({name: [_overlaid(curve, runs) for curve in curves] for name, curves in sections.items()})


def part_names(steps: Steps) -> list[str]:
    """Return the rewards whose means are in the metrics, in the order in which they are."""
    names = (key for row in steps.rows for key in row if key.startswith(PART))
    return list(dict.fromkeys(name.removeprefix(PART) for name in names))


def _present(drawn: Mapping[str, Sequence[Figure]]) -> dict[str, Section]:
    sections = {}
    for name, of in drawn.items():
        shown = [figure for figure in of if figure.svg]
        if shown:
            sections[name] = Section(
                figures=tuple(figure for figure in shown if not figure.constant),
                constant=tuple((figure.title, figure.constant) for figure in shown if figure.constant),
            )
    return sections


def _parts(runs: Sequence[Steps]) -> list[Curve]:
    names = dict.fromkeys(name for steps in runs for name in part_names(steps))
    return [
        Curve(title=title(name), lines={PART + name: title(name).lower()}, note=PARTS.get(name, "mean"))
        for name in names
    ]


def title(name: str) -> str:
    """Return a name as a heading: ``visual_perception`` as ``Visual perception``; a function's without its module."""
    words = name.rpartition(":")[2].replace("_", " ")
    return words[:1].upper() + words[1:]


def _draw(curve: Curve, steps: Steps, marks: Sequence[float]) -> Figure:
    series = [one for metric, name in curve.lines.items() if (one := _series(steps, metric, name)).points]
    return _figure(curve, Chart(series=series, band=_band(curve, steps), marks=marks), legend=False)


def _overlaid(curve: Curve, runs: Mapping[str, Steps]) -> Figure:
    metric = next((m for m in curve.lines for steps in runs.values() if _series(steps, m, m).points), "")
    series = [_series(steps, metric, name) for name, steps in runs.items()]
    note = curve.note.replace("shade: lowest to highest", "mean of a step")
    if len(curve.lines) > 1:
        note = f"{curve.lines.get(metric, '')}, {note}"
    return _figure(Curve(title=curve.title, lines={}, note=note), Chart(series=series), legend=True)


def _stacked(steps: Steps, weights: Mapping[str, float], marks: Sequence[float]) -> Figure:
    names = [name for name in part_names(steps) if weights.get(name, 1.0)]
    series = []
    for name in names:
        points = [(float(step), weights.get(name, 1.0) * value) for step, value in steps.values(PART + name)]
        series.append(Series(name=title(name).lower(), points=points))
    note = "each part times its weight; the line is their sum" if weights else "weights are not known, so each counts 1"
    drawn = Chart(series=series, stacked=True, marks=marks, size=chart.WIDE)
    return _figure(Curve(title="What the reward is made of", lines={}, note=note), drawn, legend=True, wide=True)


def _figure(curve: Curve, drawn: Chart, *, legend: bool, wide: bool = False) -> Figure:
    present = [one for one in drawn.series if one.points]
    latest = ""
    if present and drawn.stacked:
        latest = chart.short(
            chart.stack([Series(name="", points=chart.drawn_points(one)) for one in present])[1][-1][1]
        )
    elif present and not legend:
        latest = chart.short(chart.drawn_points(present[0])[-1][1])
    return Figure(
        title=curve.title,
        note=curve.note,
        latest=latest,
        legend=chart.legend([one.name for one in drawn.series], always=legend),
        svg=chart.svg(drawn),
        data=chart.data(drawn),
        wide=wide,
        constant="" if drawn.stacked or drawn.band else _constant(present),
    )


def _constant(series: Sequence[Series]) -> str:
    values = {y for one in series for _, y in one.points}
    return chart.short(values.pop()) if len(values) == 1 and len(series[0].points) > 1 else ""


def _band(curve: Curve, steps: Steps) -> tuple[Series, Series] | None:
    if curve.band is None:
        return None
    low, high = (_series(steps, metric, metric) for metric in curve.band)
    return (low, high) if low.points and high.points else None


def _series(steps: Steps, metric: str, name: str) -> Series:
    if metric not in DERIVED:
        return Series(name=name, points=[(float(step), value) for step, value in steps.values(metric)])
    values = ((float(row["step"]), DERIVED[metric](row)) for row in steps.rows)
    return Series(name=name, points=[(step, value) for step, value in values if math.isfinite(value)])
