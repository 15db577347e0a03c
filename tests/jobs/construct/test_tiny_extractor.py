from __future__ import annotations

from jobs.construct import facts
from jobs.construct.settings import Facts
from jobs.construct.tiny import cases
from jobs.data import synthetic


def test_the_facts_of_a_right_response_are_those_of_its_scene() -> None:
    for scene in synthetic.scenes("test", 50, seed=3):
        assert cases.stated(scene.response) == scene.facts


def test_what_the_extractor_is_to_say_can_be_used_as_it_is() -> None:
    for case in cases.cases("test", 200, seed=1):
        found = facts.sift(case.reply, "12", Facts(least=1))
        assert list(found.kept) == cases.stated(case.response)


def test_a_solution_without_claims_has_no_fact() -> None:
    case = cases.Case(question="How many red circles are there?", response="I do not know.")

    assert case.reply == "<info1>none</info1>"


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    assert cases.cases("train", 20, seed=1)[:5] == cases.cases("train", 5, seed=1)
    assert cases.cases("train", 5, seed=1) != cases.cases("test", 5, seed=1)
