"""The required form. Perception-R1's measured pairs are in tests/jobs/rewards/test_seed_cases.py."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eval.formatting import well_formed

PIECES = ("<think>\n", "\n</think>\n<answer>\n", "\\boxed{", "}", "\n</answer>", "<perception>\n", "\n</perception>\n")
PUBLISHED = r"<think>\n.*?\n</think>\n<answer>\n.*?\\boxed\{.+?\}.*?\n</answer>"
"""The form as the published pattern says it."""


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        pytest.param("<think>\nr\n</think>\n<answer>\n\\boxed{5}\n</answer>", True, id="the form"),
        pytest.param("<think>\n</think>\n<answer>\n\\boxed{5}\n</answer>", False, id="thinking has no line"),
        pytest.param("<think>\n\n</think>\n<answer>\n\\boxed{5}\n</answer>", True, id="thinking has an empty line"),
        pytest.param("<think>\nr\n</think>\n<answer>\n\\boxed{}\n</answer>", False, id="the box is empty"),
        pytest.param("<think>\nr\n</think>\n\n<answer>\n\\boxed{5}\n</answer>", False, id="a line between the tags"),
        pytest.param("", False, id="nothing"),
    ],
)
def test_well_formed(response: str, expected: bool) -> None:
    assert well_formed(response) is expected


def test_perception_is_demanded_only_where_asked_for() -> None:
    plain = "<think>\nr\n</think>\n<answer>\n\\boxed{5}\n</answer>"

    assert not well_formed(plain, perception=True)
    assert well_formed(f"<perception>\np\n</perception>\n{plain}", perception=True)
    assert not well_formed(f"<perception>\np\n</perception>\n{plain}")


@given(
    text=st.lists(st.sampled_from((*PIECES, "\n", "a")), max_size=10).map("".join),
    perception=st.booleans(),
    is_framed=st.booleans(),
)
@example(text="\n</think>\n<answer>\n\\boxed{}}", perception=False, is_framed=True)
def test_the_form_is_that_of_the_published_pattern(text: str, perception: bool, is_framed: bool) -> None:
    response = f"{'<perception>' if perception else '<think>'}\n{text}\n</answer>" if is_framed else text
    pattern = rf"<perception>\n.*?\n</perception>\n{PUBLISHED}" if perception else PUBLISHED

    expected = re.fullmatch(pattern, response, re.DOTALL) is not None
    assert well_formed(response, perception=perception) is expected


def test_a_response_that_repeats_the_tags_is_looked_at_in_no_time() -> None:
    began = time.perf_counter()

    assert not well_formed("<think>\n" + "\n</think>\n<answer>\n" * 2000 + "\\boxed{a}" * 2000)

    # The published pattern takes seconds for fifty of them, and sixteen times as long for a hundred.
    assert time.perf_counter() - began < 1.0
