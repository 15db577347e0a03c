"""Deadlines and percentiles."""

from __future__ import annotations

import pytest

from jobs.rewards.judge_stats import Deadline, quantile


def test_the_first_requests_are_given_the_longest_deadline() -> None:
    deadline = Deadline(min_s=10, max_s=60)
    for _ in range(19):
        deadline.observe(1.0)

    assert deadline.now_s() == 60


@pytest.mark.parametrize(
    ("latency_s", "expected_s"),
    [
        pytest.param(1.0, 10.0, id="not below the lower bound"),
        pytest.param(5.0, 15.0, id="three times the percentile"),
        pytest.param(40.0, 60.0, id="not above the upper bound"),
    ],
)
def test_the_deadline_follows_the_latencies(latency_s: float, expected_s: float) -> None:
    deadline = Deadline(min_s=10, max_s=60)
    for _ in range(20):
        deadline.observe(latency_s)

    assert deadline.now_s() == expected_s


def test_a_judge_that_became_slower_is_given_more_time() -> None:
    deadline = Deadline(min_s=1, max_s=60)
    for _ in range(256):
        deadline.observe(1.0)
    for _ in range(20):
        deadline.observe(deadline.now_s())

    assert deadline.now_s() > 3.0


def test_the_percentile_is_that_of_the_latest_latencies() -> None:
    deadline = Deadline(min_s=1, max_s=60)
    for number in range(19):
        deadline.observe(float(number))
    before = deadline.p95_s()
    deadline.observe(100.0)

    assert (before, deadline.p95_s()) == (None, 18.0)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.25, 1.0), (0.5, 2.0), (0.95, 4.0), (1.0, 4.0)])
def test_quantile(share: float, expected: float) -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], share) == expected
