"""Reading the judge's replies. Perception-R1's measured pairs are in tests/jobs/rewards/test_seed_cases.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.facts import Reading, numbered, read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("<info1>a</info1>\n<info2> b\nc </info2>", {1: "a", 2: "b\nc"}, id="two"),
        pytest.param("<info1>x < y</info1>", {1: "x < y"}, id="a sign that looks like a tag"),
        pytest.param("AB = 5", {1: "AB = 5"}, id="no tag is one fact"),
        pytest.param("<info1>a</info1><info1>b</info1>", {1: "a"}, id="a number twice"),
        pytest.param("  \n", {}, id="blank"),
        pytest.param("", {}, id="empty"),
        pytest.param(None, {}, id="none"),
    ],
)
def test_facts_are_numbered(text: str | None, expected: dict[int, str]) -> None:
    assert numbered(text) == expected


def test_the_denominator_is_what_was_asked_not_what_was_answered() -> None:
    reading = read("<info1>1</info1>", [1, 2, 3, 4])

    assert reading == Reading(scores=(1.0, 0.0, 0.0, 0.0), mismatch=True)
    assert reading.reward == pytest.approx(0.25, abs=1e-6)


def test_a_gap_in_the_numbering_ends_nothing() -> None:
    assert read("<info1>1</info1><info3>1</info3>", [1, 2, 3]) == Reading(scores=(1.0, 0.0, 1.0), mismatch=True)


def test_a_tag_that_nobody_asked_for_earns_nothing() -> None:
    assert read("<info1>0</info1><info2>1</info2>", [1]) == Reading(scores=(0.0,), mismatch=True)


def test_the_last_of_several_tags_counts() -> None:
    assert read("perhaps <info1>1</info1>, no: <info1>0</info1>", [1]) == Reading(scores=(0.0,), mismatch=False)


def test_text_around_the_tags_does_not_matter() -> None:
    reply = 'The side is 5: "AB has length 5" <info1> 1 </info1>\nIt is red: nothing. <info2>0</info2>'

    assert read(reply, [1, 2]) == Reading(scores=(1.0, 0.0), mismatch=False)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(None, id="no content"),
        pytest.param("", id="empty"),
        pytest.param("Yes, it does.", id="no tag"),
        pytest.param("<html><body>502 Bad Gateway</body></html>", id="a web page"),
        pytest.param("<info1>nan</info1>", id="nan"),
        pytest.param("<info1>inf</info1>", id="inf"),
        pytest.param("<info1>1e999</info1>", id="too large for a number"),
        pytest.param("<info1>1</info1><info2>nan</info2>", id="one nan of two"),
        pytest.param("<info1>1<info1>", id="a tag that does not end"),
        pytest.param("<info1>1</info2>", id="a tag that ends as another"),
    ],
)
def test_nonsense_is_no_verdict(reply: str | None) -> None:
    assert read(reply, [1, 2]) is None


def test_numbers_outside_the_unit_interval_are_clamped() -> None:
    assert read("<info1>1e9</info1><info2>-3</info2>", [1, 2]) == Reading(scores=(1.0, 0.0), mismatch=False)


def test_the_published_reading_rewards_nonsense() -> None:
    assert read("<info1>nan</info1>", [1], faithful=True) == Reading(scores=(1.0,), mismatch=False)
    assert read("<info1>yes</info1>", [1], faithful=True) == Reading(scores=(0.0,), mismatch=False)
    assert read(None, [1], faithful=True) == Reading(scores=(), mismatch=True)


@pytest.mark.parametrize("unconfirmed", ["<info1></info1>", "<info1>yes</info1>", "<info1>1/1</info1>", ""])
def test_a_fact_that_is_not_confirmed_earns_nothing_and_is_marked(unconfirmed: str) -> None:
    assert read(f"{unconfirmed}<info2>1</info2>", [1, 2]) == Reading(scores=(0.0, 1.0), mismatch=True)


@given(
    reply=st.text(alphabet="<>/infoan0123456789.-e \n") | st.text(),
    asked=st.lists(st.integers(1, 5), min_size=1, unique=True),
)
def test_whatever_the_reply_the_reward_stays_below_one(reply: str, asked: list[int]) -> None:
    reading = read(reply, asked)

    if reading is not None:
        assert len(reading.scores) == len(asked)
        assert 0.0 <= reading.reward < 1.0
