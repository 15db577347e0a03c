"""Which option a response chose."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import choices

OPTIONS = ("3 cm", "4 cm", "5 cm", "No correct answer")


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        pytest.param("B", "B", id="letter"),
        pytest.param("b", "B", id="small letter"),
        pytest.param("(B)", "B", id="in brackets"),
        pytest.param("**B**.", "B", id="bold"),
        pytest.param("Option B", "B", id="option B"),
        pytest.param("B<|im_end|>", "B", id="end token kept by the engine"),
        pytest.param("<think>\nA or C?\n</think>\n<answer>\n\\boxed{B}\n</answer>", "B", id="system A's form"),
        pytest.param("<think>The answer is C.</think>B", "B", id="thinking does not answer"),
        pytest.param("\\boxed{A} no, \\boxed{B}", "B", id="last box"),
        pytest.param("\\boxed{\\text{B}}", "B", id="box with text command"),
        pytest.param("\\boxed{B. 4 cm}", "B", id="box with letter and option"),
        pytest.param("\\boxed{(B)}", "B", id="box with brackets"),
        pytest.param("\\boxed{4\\text{ cm}}", "B", id="box with the option's text"),
        pytest.param("\\boxed{4}", "B", id="box with the option's number"),
        pytest.param("\\boxed{7}", None, id="box with no option"),
        pytest.param("The answer is B. \\boxed{}", None, id="an empty box is the answer"),
        pytest.param("\\boxed{A, C}", None, id="box with two letters"),
        pytest.param("\\boxed{Z}", None, id="box with a letter that is no option"),
        pytest.param("The answer is (B).", "B", id="declared in brackets"),
        pytest.param("the answer is (b)", "B", id="declared small in brackets"),
        pytest.param("**Answer:** B", "B", id="declared in bold"),
        pytest.param("Answer: B\nThat is 4 cm, as OC is 4 cm.", "B", id="declared first"),
        pytest.param("The correct option is B because OC = 4.", "B", id="declared with a reason"),
        pytest.param("The answer is A because OC = 3.", "A", id="declared A with a reason"),
        pytest.param("The answer is A right one to find.", None, id="A is an article"),
        pytest.param("The answer is a line.", None, id="a is an article"),
        pytest.param("Is the answer A? No. The answer is C.", "C", id="last declaration"),
        pytest.param("I choose C.", "C", id="chosen"),
        pytest.param("Therefore option C is correct.", "C", id="is correct"),
        pytest.param("So (C) is the right one.", "C", id="in brackets is right"),
        pytest.param("The correct answer is option C.", "C", id="answer is option C"),
        pytest.param("Final Answer: C. 5 cm", "C", id="declared with its option"),
        pytest.param("The answer is: **(C)** 5 cm", "C", id="declared bold in brackets"),
        pytest.param("Option A is wrong. Option B is too long.", None, id="options ruled out"),
        pytest.param("Answer C is right. Answer A is wrong.", "C", id="answer ruled out after the right one"),
        pytest.param("The answer is not B.", None, id="answer denied"),
        pytest.param("I would not choose B.", None, id="choice denied"),
        pytest.param("<Thought process>: <<OC is 4>>\n<Answer>: <<B>>", "B", id="We-Math's form"),
        pytest.param("B. 4 cm", "B", id="letter and option"),
        pytest.param("B) 4 cm", "B", id="letter, bracket and option"),
        pytest.param("A. 3 cm\nB. 4 cm\nC. 5 cm\nWhat a question.", None, id="options repeated"),
        pytest.param("A. 3 cm\nB. 4 cm\nC. 5 cm\nThe answer is C", "C", id="options repeated, one declared"),
        pytest.param("(A) and (B) are too short.\nSo it is (C).", "C", id="brackets in the last line"),
        pytest.param("It is (A) or (B).", None, id="two in brackets"),
        pytest.param("OC is 4 cm long.", "B", id="an option's text"),
        pytest.param("OC is 4 cm long, not 3 cm.", None, id="two options' texts"),
        pytest.param("It is 14 cm.", None, id="a text inside another number"),
        pytest.param("<answer></answer> B", None, id="an empty answer is none"),
        pytest.param("<answer>B", "B", id="answer cut off"),
        pytest.param("\\boxed{B", "B", id="box cut off"),
        pytest.param("", None, id="nothing"),
        pytest.param("I do not know.", None, id="no answer"),
    ],
)
def test_the_letter_that_a_response_declares(response: str, expected: str | None) -> None:
    assert choices.letter(response, OPTIONS) == expected


@pytest.mark.parametrize(
    "piece", [" ", "\n", "answer ", "answer is ( ", "not ", "option B ", "\\text{", "(A) ", "\n(A) ", "* ", "1,"]
)
def test_a_long_response_takes_no_longer_than_it_is_long(piece: str) -> None:
    response = f"The answer{piece * (60_000 // len(piece))}"

    began = time.process_time()
    choices.letter(response, OPTIONS)

    assert time.process_time() - began < 2.0


def test_a_longer_option_is_not_taken_for_a_shorter_one_inside_it() -> None:
    assert choices.letter("It is an equilateral triangle.", ("triangle", "equilateral triangle")) == "B"


def test_options_whose_texts_are_letters_are_read_as_letters_first() -> None:
    assert choices.letter("\\boxed{B}", ("C", "B", "A")) == "B"


def test_without_known_options_ten_letters_are_possible() -> None:
    assert choices.letter("Answer: J") == "J"
    assert choices.letter("Answer: K") is None


def test_a_letter_beyond_the_options_is_none() -> None:
    assert choices.letter("Answer: E", OPTIONS) is None


@given(st.text(max_size=300), st.lists(st.text(max_size=20), max_size=6))
def test_any_text_gives_a_letter_of_an_option_or_none(response: str, options: list[str]) -> None:
    found = choices.letter(response, options)

    assert found is None or found in choices.letters(len(options))


@given(st.sampled_from("ABCD"), st.sampled_from(["{}", "({})", "Answer: {}", "\\boxed{{{}}}", "<answer>{}</answer>"]))
def test_every_plain_form_is_understood(letter: str, form: str) -> None:
    assert choices.letter(form.format(letter), OPTIONS) == letter
