from __future__ import annotations

import re

import pytest

from eval.report import chart
from eval.report.chart import Chart, Series


@pytest.mark.parametrize(
    ("values", "low", "high", "ticks"),
    [
        pytest.param([0.31, 0.88], 0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), id="near zero includes it"),
        pytest.param([900.0, 1000.0], 900.0, 1000.0, (900.0, 925.0, 950.0, 975.0, 1000.0), id="far from zero"),
        pytest.param([-2.0, 0.0], -2.0, 0.0, (-2.0, -1.5, -1.0, -0.5, 0.0), id="a penalty"),
        pytest.param([0.0, 0.0], 0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), id="nothing but zeros"),
    ],
)
def test_axes_are_round_and_hold_all_values(
    values: list[float], low: float, high: float, ticks: tuple[float, ...]
) -> None:
    axis = chart.axis(values)

    assert (axis.low, axis.high) == pytest.approx((low, high))
    assert axis.ticks == pytest.approx(ticks)


@pytest.mark.parametrize("value", [3.0, -3.0, 1e-9, 1e12])
def test_a_single_value_has_an_axis_around_it(value: float) -> None:
    axis = chart.axis([value])

    assert axis.low <= value <= axis.high
    assert axis.low < axis.high


def test_a_straight_line_is_its_own_running_mean_but_for_its_ends() -> None:
    points = [(float(k), 2.0 * k) for k in range(40)]

    smooth = chart.running_mean(points)

    assert smooth[2:-2] == points[2:-2]
    assert smooth[-1] == (39.0, 76.0)


def drawn(*series: Series, stacked: bool = False) -> str:
    return chart.svg(Chart(series=series, stacked=stacked))


def test_every_point_of_a_chart_lies_inside_it() -> None:
    svg = drawn(Series(name="a", points=[(1.0, -5.0), (7.0, 3.0), (9.0, 1e6)]))

    points = re.search(r'polyline class="line s0" points="([^"]+)"', svg)
    assert points
    width, height = chart.SMALL
    for x, y in (map(float, pair.split(",")) for pair in points.group(1).split()):
        assert chart.LEFT <= x <= width - chart.RIGHT
        assert chart.TOP <= y <= height - chart.BOTTOM


def test_one_step_makes_a_chart_too() -> None:
    assert "<circle" in drawn(Series(name="a", points=[(1.0, 0.5)]))


def test_no_points_make_no_chart() -> None:
    assert drawn(Series(name="a", points=[])) == ""


def test_a_line_without_points_keeps_its_colour_for_the_next_chart() -> None:
    svg = drawn(Series(name="a", points=[]), Series(name="b", points=[(1.0, 1.0), (2.0, 2.0)]))

    assert 'class="line s1"' in svg
    assert 'class="line s0"' not in svg


def test_names_of_series_are_escaped() -> None:
    series = Series(name="</script><b>", points=[(1.0, 1.0)])

    page = drawn(series) + chart.legend(["</script><b>", "c"]) + chart.data(Chart(series=[series]))

    assert "<b>" not in page
    assert "</script>" not in page


def test_layers_stand_on_each_other_and_negative_ones_hang_below_zero() -> None:
    layers, total = chart.stack(
        [
            Series(name="a", points=[(1.0, 0.5), (2.0, 0.25)]),
            Series(name="b", points=[(1.0, 0.25)]),
            Series(name="c", points=[(1.0, -0.5), (2.0, -0.25)]),
        ]
    )

    assert layers == [
        [(1.0, 0.0, 0.5), (2.0, 0.0, 0.25)],
        [(1.0, 0.5, 0.75), (2.0, 0.25, 0.25)],
        [(1.0, -0.5, 0.0), (2.0, -0.25, 0.0)],
    ]
    assert total == [(1.0, 0.25), (2.0, 0.0)]


def test_a_long_line_is_thinned_to_the_means_of_neighbours_and_ends_where_it_ends() -> None:
    points = [(float(k), float(k % 2)) for k in range(10_001)]

    thin = chart.thinned(points, 400)

    assert len(thin) <= 400
    assert thin[-1] == (10_000.0, 0.0)
    assert all(abs(y - 0.5) < 0.05 for _, y in thin[:-1])


def test_a_chart_of_ten_thousand_steps_is_small() -> None:
    series = Series(name="a", points=[(float(k), k % 7 / 7) for k in range(10_000)])

    assert len(drawn(series)) < 20_000
