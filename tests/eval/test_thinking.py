"""Thinking, then an answer."""

from __future__ import annotations

import time

import pytest
from hypothesis import given

from eval.thinking import answer, well_formed, without_end
from tests.eval import garbage

GOOD = "<think>why</think><answer>5</answer>"


@pytest.mark.parametrize(
    ("response", "expected", "published"),
    [
        pytest.param(GOOD, True, True, id="plain"),
        pytest.param("<think>a\nb</think>\n<answer>\n5\n</answer>", True, False, id="lines"),
        pytest.param(f"  {GOOD}\n", True, False, id="white space around it"),
        pytest.param(f"{GOOD}<|im_end|>", True, False, id="end token"),
        pytest.param("<think></think><answer></answer>", True, True, id="empty"),
        pytest.param("<think>a</think> so <answer>5</answer>", False, False, id="text between"),
        pytest.param(f"{GOOD} done", False, False, id="text behind"),
        pytest.param(f"So: {GOOD}", False, False, id="text before"),
        pytest.param("<think>a</think>", False, False, id="no answer"),
        pytest.param("<think>a</think><answer>5", False, False, id="cut off"),
        pytest.param("<think><answer>5</answer>", False, False, id="thinking without an end"),
        pytest.param("<think>a</think><answer></answer", False, False, id="half a tag"),
        pytest.param("", False, False, id="nothing"),
    ],
)
def test_the_form(response: str, expected: bool, published: bool) -> None:
    assert well_formed(response) is expected
    assert well_formed(response, faithful=True) is published


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<think>1</think><answer>2</answer><|im_end|>", "2"),
        ("<think><answer>1</answer></think><answer>2</answer>", "2"),
        ("<think>1</think> 2", " 2"),
        ("<answer>1</answer><answer>2</answer>", "1"),
        ("<answer>1", "<answer>1"),
        ("just 2 <|im_end|><|endoftext|>", "just 2"),
        ("", ""),
    ],
)
def test_the_answer_is_what_is_said_in_the_end(response: str, expected: str) -> None:
    assert answer(response) == expected


@given(garbage.texts)
def test_any_text_has_a_form_and_an_answer(text: str) -> None:
    well_formed(text)
    well_formed(text, faithful=True)

    assert answer(text) in text
    assert text.startswith(without_end(text))


@pytest.mark.parametrize("piece", ["<think>", "</think><answer>", "</think>  ", "<answer>", " ", "<|im_end|>", "\n<"])
def test_looking_at_the_form_takes_time_in_proportion_to_the_text(piece: str) -> None:
    text = "<think>" + piece * (100_000 // len(piece))
    began = time.perf_counter()

    well_formed(text)
    answer(text)

    assert time.perf_counter() - began < 5.0
