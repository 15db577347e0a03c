"""The bench of the data check measures whole checks of files that are good."""

from __future__ import annotations

import pytest

from bench import data_check


@pytest.mark.slow
def test_a_small_file_is_measured_in_both_forms() -> None:
    found = data_check.measure(60, 1, processes=1)

    assert [(figure.what, figure.who) for figure in found] == [
        (data_check.RATE, "JPEG"),
        (data_check.RATE, "PNG of noise"),
        (data_check.WALL, "JPEG"),
    ]
    assert all(value > 0 for figure in found for value in figure.values)
    assert found[0].goal == data_check.GOAL
