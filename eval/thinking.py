r"""Thinking, then an answer: ``<think>..</think><answer>..</answer>``, and where the answer is.

The form of perception tasks, whose answers are boxes or texts. Mathematics has one of its own, with
a box and line breaks: ``eval.formatting``.
"""

from __future__ import annotations

import re

TURN = re.compile(r"</think>\s*<answer>")
PUBLISHED_FORM = re.compile(r"<think>.*?</think><answer>.*?</answer>$")
END_TOKENS = ("<|im_end|>", "<|endoftext|>")
"""What follows a response when the engine keeps special tokens."""


def well_formed(response: str, *, faithful: bool = False) -> bool:
    r"""Return whether the response is thinking followed by an answer, and nothing else.

    White space around and between the two, line breaks inside them, and end tokens are free: the
    prompt says nothing about them. Tags inside thinking or answer are not looked at.

    Args:
        response: The decoded response.
        faithful: As published, where a line break inside either fails, which ordinary thinking has.

    Source:
        PR1, src/open_r1/rewards.py, ``think_format_reward``, which is not in its registry.

    >>> well_formed("<think>a\nb</think>\n<answer>5</answer>")
    True
    """
    if faithful:
        return PUBLISHED_FORM.match(response) is not None
    said = without_end(response).strip()
    if not (said.startswith("<think>") and said.endswith("</answer>")):
        return False
    return TURN.search(said, len("<think>"), len(said) - len("</answer>")) is not None


def answer(response: str) -> str:
    r"""Return what the response says in the end: the first ``<answer>`` after the thinking, or all after it.

    A box that is only considered in the thinking is not an answer. Without any tag the whole
    response is the answer. End tokens are not part of it.

    >>> answer("<think>[1, 2, 3, 4]?</think><answer>[5, 6, 7, 8]</answer><|im_end|>")
    '[5, 6, 7, 8]'
    """
    said = without_end(response).rpartition("</think>")[2]
    # Not by a pattern, which would look for the end again from every tag that begins.
    inside = said.partition("<answer>")[2]
    answered, end, _ = inside.partition("</answer>")
    return answered if end else said


def without_end(response: str) -> str:
    """Return the response without end tokens and the white space around them.

    >>> without_end("a cat <|im_end|><|endoftext|>")
    'a cat'
    """
    # Found from the end: a pattern that is searched for would begin again at every blank.
    kept = response.rstrip()
    while kept.endswith(END_TOKENS):
        for token in END_TOKENS:
            kept = kept.removesuffix(token).rstrip()
    return kept
