from __future__ import annotations

import pytest

from eval import facts
from jobs.tiny import judge_cases
from jobs.tiny.judge_cases import Case

FACTS = (("red circles", 3), ("blue squares", 2))


def case(response: str) -> Case:
    return Case(facts=FACTS, response=response, damage="")


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        pytest.param("red circles=three\nblue squares=two", (True, True), id="both stated"),
        pytest.param("blue squares=two\nred circles=three", (True, True), id="in any order"),
        pytest.param("red circles=four\nblue squares=two", (False, True), id="wrong number"),
        pytest.param("green circles=three\nblue squares=two", (False, True), id="wrong colour"),
        pytest.param("red circles=three\nblue circles=two", (True, False), id="wrong shape"),
        pytest.param("blue squares=two", (False, True), id="omitted"),
        pytest.param("red circles=three\nred circles=four\nblue squares=two", (False, True), id="contradicted"),
        pytest.param("red circles=threes\nblue squares=two", (False, True), id="a longer number"),
        pytest.param("red circles=three\nred circles=three\nblue squares=", (True, False), id="said twice, cut short"),
        pytest.param("", (False, False), id="nothing said"),
    ],
)
def test_a_fact_is_stated_if_colour_shape_and_number_agree(response: str, expected: tuple[bool, ...]) -> None:
    assert case(response).verdicts == expected


def test_the_reply_restates_quotes_and_judges_every_fact() -> None:
    reply = case("<think>\nred circles=four\nred squares=one\ngreen squares=two").reply

    assert reply == (
        "info1>red circles:three|red circles=four no<info1>0</info1>\ninfo2>blue squares:two|nothing no<info2>0</info2>"
    )


def test_the_reply_quotes_contradictions_and_other_things_of_the_colour() -> None:
    reply = case("red circles=three\nred circles=two\nblue circles=two").reply

    assert reply == (
        "info1>red circles:three|red circles=three,red circles=two no<info1>0</info1>\n"
        "info2>blue squares:two|blue circles no<info2>0</info2>"
    )


def test_every_right_reply_is_read_as_the_verdicts_it_holds() -> None:
    for each in judge_cases.cases("train", 300, seed=1):
        reading = facts.read(each.reply, range(1, len(each.facts) + 1))
        assert reading is not None
        assert not reading.mismatch
        assert reading.scores == tuple(map(float, each.verdicts))


def test_cases_are_a_function_of_seed_and_split() -> None:
    assert judge_cases.cases("train", 5, seed=1) == judge_cases.cases("train", 9, seed=1)[:5]
    assert judge_cases.cases("train", 5, seed=1) != judge_cases.cases("test", 5, seed=1)


def test_both_verdicts_and_every_near_miss_are_frequent() -> None:
    found = judge_cases.cases("test", 500, seed=1)
    verdicts = [verdict for each in found for verdict in each.verdicts]

    assert 0.35 < sum(verdicts) / len(verdicts) < 0.65
    for damage in (*judge_cases.CLAIMS, *judge_cases.FORMS):
        if damage not in ("right", "whole"):
            assert sum(damage in each.damage for each in found) >= 10, damage
