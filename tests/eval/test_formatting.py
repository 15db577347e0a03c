"""The required form. Perception-R1's measured pairs are in tests/jobs/rewards/test_seed_cases.py."""

from __future__ import annotations

import pytest

from eval.formatting import well_formed


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
