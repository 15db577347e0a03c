from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import data
from jobs.construct import facts, prompts
from jobs.construct.settings import Facts

LIMITS = Facts()


def reasons(reply: str, answer: str = "42", limits: Facts = LIMITS) -> list[str]:
    return [one.reason for one in facts.sift(reply, answer, limits).dropped]


def test_facts_are_numbered_anew_in_the_order_written() -> None:
    reply = "Here they are:\n<info2>AB  is\nparallel to CD</info2> and <info7>C is right</info7>"

    found = facts.sift(reply, "42", LIMITS)

    assert found.kept == ("C is right",)
    assert found.dropped == (facts.Dropped(fact="AB is parallel to CD", reason="several facts in one"),)


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        pytest.param("ab", "too short", id="short"),
        pytest.param("x" * 241, "too long", id="many characters"),
        pytest.param("a b " * 21, "too long", id="many words"),
        pytest.param("AB = 3; BC = 4", "several facts in one", id="semicolon"),
        pytest.param("AB is 3. BC is 4.", "several facts in one", id="sentences"),
        pytest.param("none", "no fact", id="none"),
        pytest.param("The answer is large", "gives the answer away", id="speaks of the answer"),
        pytest.param("x is 42 degrees", "gives the answer away", id="value"),
        pytest.param("x is 42.0 degrees", "gives the answer away", id="the same number"),
        pytest.param("a<info2>b", "torn tag", id="tag inside"),
    ],
)
def test_a_fact_that_cannot_be_used_is_dropped_with_a_reason(fact: str, reason: str) -> None:
    assert reasons(f"<info1>{fact}</info1>") == [reason]


@pytest.mark.parametrize("fact", ["AB is 420 long", "AB is 4.2 long", "approx. 3 units", "AB = 3.5"])
def test_a_fact_that_only_looks_like_that_is_kept(fact: str) -> None:
    assert facts.sift(f"<info1>{fact}</info1>", "42", LIMITS).kept == (fact,)


def test_what_is_left_of_a_torn_tag_is_dropped() -> None:
    assert reasons("<info1>AB is 3</info1><info2>BC is") == ["torn tag"]


def test_a_repetition_counts_once_whatever_its_case_and_full_stops() -> None:
    found = facts.sift("<info1>AB is 3.</info1><info2>ab is 3</info2><info3>AC is 3</info3>", "42", LIMITS)

    assert found.kept == ("AB is 3.", "AC is 3")
    assert [one.reason for one in found.dropped] == ["duplicate"]


def test_facts_beyond_the_most_are_dropped() -> None:
    reply = "".join(f"<info{k}>fact number {k}</info{k}>" for k in range(1, 5))

    assert reasons(reply, limits=Facts(most=3)) == ["beyond the most"]


@pytest.mark.parametrize(
    ("fact", "answer", "strict", "stated"),
    [
        pytest.param("AB is 12", "12", True, False, id="number"),
        pytest.param("AB is 1,200", "1200", True, False, id="thousands"),
        pytest.param(r"AB is 2\sqrt{3}", r"$2 \sqrt { 3 }$", True, False, id="latex and spaces"),
        pytest.param(r"AB is 12\sqrt{3}", r"$2 \sqrt { 3 }$", False, False, id="another latex"),
        pytest.param("Point A is on the circle", "$A$", False, False, id="a letter is a point"),
        pytest.param("Option (A) is a circle", "$A$", True, False, id="a letter is a choice"),
        pytest.param("The ANSWER is here", "7", True, True, id="speaks of it"),
        pytest.param(r"\boxed{3}", "7", True, True, id="box"),
    ],
)
def test_what_gives_the_answer_away(fact: str, answer: str, strict: bool, stated: bool) -> None:
    assert facts.gives_away(fact, answer, strict=True) is strict
    assert facts.gives_away(fact, answer, strict=False) is stated


@given(st.text(), st.text())
def test_any_reply_is_sifted_and_what_is_kept_reads_back(reply: str, answer: str) -> None:
    found = facts.sift(reply, answer, LIMITS)

    assert data.facts(prompts.numbered(found.kept)) == list(found.kept)


@given(st.lists(st.sampled_from(["<info1>", "</info1>", "<info2>", "</info2>", "<info>", "AB is 3", "BC is 4", "\n"])))
def test_no_heap_of_tags_makes_a_fact_with_a_tag_in_it(pieces: list[str]) -> None:
    found = facts.sift("".join(pieces), "42", LIMITS)

    assert not any("<" in fact for fact in found.kept)
    assert data.facts(prompts.numbered(found.kept)) == list(found.kept)
