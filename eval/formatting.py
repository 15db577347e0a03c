r"""The form a response must have: thinking, then an answer with a box."""

from __future__ import annotations

import re

THINK_AND_ANSWER = r"<think>\n.*?\n</think>\n<answer>\n.*?\\boxed\{.+?\}.*?\n</answer>"
WELL_FORMED = re.compile(THINK_AND_ANSWER, re.DOTALL)
WITH_PERCEPTION = re.compile(r"<perception>\n.*?\n</perception>\n" + THINK_AND_ANSWER, re.DOTALL)


def well_formed(response: str, *, perception: bool = False) -> bool:
    r"""Return whether the whole response has the required form.

    The form, with ``\n`` for a line break: ``<think>\n`` anything ``\n</think>\n<answer>\n``
    anything ``\boxed{`` at least one character ``}`` anything ``\n</answer>``.

    What surprises, each kept as published, so that rewards compare with the paper's and one reading
    of "well formed" holds in training and evaluation:

    - The line breaks are part of the form, although the prompt does not mention them: the policy
      learns them within a few steps, and a fixed form is what makes the answer easy to cut out.
    - Nothing may stand before or after, not even a trailing line break: the response ends with its
      end token, so anything after ``</answer>`` is something the policy chose to write.
    - Tags inside thinking or answer are not looked at, so nested or repeated ones pass. This earns
      a policy nothing more than the plain form would.
    - Empty thinking needs its own line: ``<think>\n\n</think>``.

    Args:
        response: The decoded response, special tokens removed.
        perception: Also require ``<perception>\n`` anything ``\n</perception>\n`` in front.

    Source:
        Perception-R1, verl/utils/reward_score/boxed_math_verify.py:21-30 at c47eaf2.

    >>> well_formed("<think>\nwhy\n</think>\n<answer>\n\\boxed{5}\n</answer>")
    True
    """
    return (WITH_PERCEPTION if perception else WELL_FORMED).fullmatch(response) is not None
