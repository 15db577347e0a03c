"""Which of the trainer's numbers are drawn, and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from markupsafe import Markup

from eval import chart
from eval.chart import Series
from eval.record import Steps

BAND = ("critic/rewards/min", "critic/rewards/max")


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
    """

    title: str
    note: str
    latest: str
    legend: Markup = field(default=Markup())
    svg: Markup = field(default=Markup())


SECTIONS: Mapping[str, tuple[Curve, ...]] = {
    "Rewards": (
        Curve(title="Total reward", lines={"critic/rewards/mean": "mean"}, note="shade: lowest to highest", band=BAND),
        Curve(title="Accuracy", lines={"reward/accuracy": "accuracy"}, note="share of right answers"),
        Curve(
            title="Visual perception",
            lines={"reward/visual_perception": "visual perception"},
            note="share of facts the judge found",
        ),
        Curve(title="Format", lines={"reward/format": "format"}, note="share in the required form"),
        Curve(title="Repetition", lines={"reward/repetition": "repetition"}, note="0 is none; below is a penalty"),
        Curve(title="Response length", lines={"response_length/mean": "tokens"}, note="tokens, mean"),
    ),
    "Optimisation": (
        Curve(title="Policy loss", lines={"actor/pg_loss": "loss"}, note="its level says little"),
        Curve(title="Gradient norm", lines={"actor/grad_norm": "norm"}, note="before clipping"),
        Curve(title="Entropy", lines={"actor/entropy": "entropy"}, note="nats per token"),
        Curve(title="Clipped tokens", lines={"actor/pg_clipfrac": "share"}, note="share"),
        Curve(title="Cut off", lines={"response_length/clip_ratio": "share"}, note="share that hit the longest length"),
        Curve(title="Learning rate", lines={"actor/lr": "rate"}),
    ),
    "Judge": (
        Curve(
            title="Judge latency",
            lines={"judge/latency_p50": "median", "judge/latency_p95": "95th percentile"},
            note="seconds",
        ),
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
    ),
}


def figures(steps: Steps) -> dict[str, list[Figure]]:
    """Return every chart that has data, by section; sections without any are left out."""
    drawn = {name: [_draw(curve, steps) for curve in curves] for name, curves in SECTIONS.items()}
    present = {name: [figure for figure in of if figure.svg] for name, of in drawn.items()}
    return {name: of for name, of in present.items() if of}


def _draw(curve: Curve, steps: Steps) -> Figure:
    series = [one for metric, name in curve.lines.items() if (one := _series(steps, metric, name)).points]
    return Figure(
        title=curve.title,
        note=curve.note,
        latest=chart.short(chart.drawn_points(series[0])[-1][1]) if series else "",
        legend=chart.legend([one.name for one in series]),
        svg=chart.lines(series, band=_band(curve, steps)),
    )


def _band(curve: Curve, steps: Steps) -> tuple[Series, Series] | None:
    if curve.band is None:
        return None
    low, high = (_series(steps, metric, metric) for metric in curve.band)
    return low, high


def _series(steps: Steps, metric: str, name: str) -> Series:
    return Series(name=name, points=[(float(step), value) for step, value in steps.values(metric)])
