r"""The form a response must have: thinking, then an answer with a box."""

from __future__ import annotations

THINK = "<think>\n"
ANSWER = "\n</think>\n<answer>\n"
BOX = "\\boxed{"
END = "\n</answer>"
PERCEPTION = "<perception>\n"
END_OF_PERCEPTION = "\n</perception>\n"


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
    begin = [PERCEPTION, END_OF_PERCEPTION + THINK] if perception else [THINK]
    if not (response.startswith(begin[0]) and response.endswith(END)):
        return False
    box = _after(response, [*begin, ANSWER, BOX])
    return box is not None and response.find("}", box + 1, len(response) - len(END)) != -1


def _after(text: str, pieces: list[str]) -> int | None:
    """Return where the pieces, in this order with anything between them, have ended for the first time.

    Not one pattern: where the tags repeat its time grows with the fourth power of the text's length, and a
    policy that is caught in a loop writes them for thousands of tokens.
    """
    place = 0
    for piece in pieces:
        found = text.find(piece, place)
        if found == -1:
            return None
        place = found + len(piece)
    return place
