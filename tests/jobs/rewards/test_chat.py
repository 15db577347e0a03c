"""How long a busy judge may be left alone."""

from __future__ import annotations

import pytest

from jobs.rewards.chat import Address, Busy, pause_s


@pytest.mark.parametrize(
    ("retry_after", "expected_s"),
    [
        pytest.param("5", 5.0, id="seconds"),
        pytest.param("0", 0.0, id="at once"),
        pytest.param("-3", 0.0, id="in the past"),
        pytest.param("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, id="a date in the past"),
        pytest.param("Wed, 21 Oct 2015 07:28:00 -0000", 0.0, id="a date without a zone"),
        pytest.param("nan", 1.0, id="nan"),
        pytest.param("inf", 1.0, id="inf"),
        pytest.param("tomorrow", 1.0, id="a word"),
        pytest.param("", 1.0, id="empty"),
        pytest.param(None, 1.0, id="absent"),
    ],
)
def test_the_pause_that_a_header_asks_for(retry_after: str | None, expected_s: float) -> None:
    assert pause_s(retry_after) == expected_s


def test_an_address_prints_without_its_key() -> None:
    assert repr(Address(url="http://h/v1", model="m", key="secret")) == "Address(url='http://h/v1', model='m')"


def test_a_busy_judge_says_why_and_for_how_long() -> None:
    busy = Busy("status 429", 2.0)

    assert (str(busy), busy.retry_after_s) == ("status 429", 2.0)
