"""What counts as the same answer. Perception-R1's measured pairs are in tests/jobs/rewards/test_seed_cases.py."""

from __future__ import annotations

import pytest

from eval.answers import correct, delimited, extracted


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(r"2 \sqrt { 3 }", r"$2 \sqrt { 3 }$", id="LaTeX"),
        pytest.param("A", "$A$", id="a letter"),
        pytest.param("3:4", "$3:4$", id="a ratio"),
        pytest.param(" 24 ", "24", id="a number"),
        pytest.param("-3.5", "-3.5", id="a negative number"),
        pytest.param("1,000", "1,000", id="a number with commas"),
        pytest.param("50%", "50%", id="percent"),
        pytest.param("$x$", "$x$", id="already delimited"),
        pytest.param(r"\(x\)", r"\(x\)", id="delimited by parentheses"),
        pytest.param(r"\boxed{5}", r"\boxed{5}", id="boxed"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_ground_truths_are_delimited_where_they_need_it(answer: str, expected: str) -> None:
    assert delimited(answer) == expected


def test_delimiting_twice_is_delimiting_once() -> None:
    assert delimited(delimited(r"\frac{1}{2}")) == delimited(r"\frac{1}{2}")


def test_an_answer_is_found_across_lines() -> None:
    assert extracted("<think>\n1\n</think>\n<answer>\n5\n</answer>") == "\n5\n"


def test_the_published_pattern_sees_only_answers_on_one_line() -> None:
    response = "<answer>\n5\n</answer>"

    assert extracted(response, faithful=True) == response
    assert extracted("<answer>5</answer>", faithful=True) == "5"


def test_a_number_in_the_thinking_is_not_the_answer() -> None:
    response = "<think>\n\\boxed{7}\n</think>\n<answer>\nI do not know.\n</answer>"

    assert not correct(response, "7")
    assert correct(response, "7", faithful=True)


def test_an_unreadable_response_is_wrong() -> None:
    assert not correct("\\boxed{\\frac{}{}}", "5")


@pytest.mark.parametrize("answer", ["", "$", "\\frac"])
def test_an_unreadable_ground_truth_equals_nothing(answer: str) -> None:
    assert not correct(answer, answer)
