r"""Is an answer right? Mathematical equality by math-verify, in this process and without a time limit.

Some answers keep sympy busy for ever, so whoever checks answers of a model does it through
``eval.answer_checker``, which runs ``correct`` in a process that it can kill.
"""

from __future__ import annotations

import re

ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
ONE_LINE_ANSWER = re.compile(r"<answer>(.*?)</answer>")
DELIMITED = re.compile(r"\$|\\\(|\\\[|\\boxed|\\begin")
PLAIN_NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?%?")


def delimited(answer: str) -> str:
    r"""Return a ground truth that math-verify reads whole: ``2\sqrt{3}`` becomes ``$2\sqrt{3}$``.

    Without delimiters ``2 \sqrt { 3 }`` reads as 3, so that the right answer scores 0 and the wrong
    answer 3 scores 1; a letter, as in multiple choice, reads as nothing and can never be right; a
    ratio ``3:4`` reads as 3. Plain numbers, empty text and anything already delimited stay as they
    are. Several letters read as a product, in which their order does not count: prefer numbers and
    single letters as answers.

    >>> delimited("2 \\sqrt { 3 }"), delimited("A"), delimited("24"), delimited("$x$")
    ('$2 \\sqrt { 3 }$', '$A$', '24', '$x$')
    """
    text = answer.strip()
    if not text or DELIMITED.search(text) or PLAIN_NUMBER.fullmatch(text):
        return text
    return f"${text}$"


def extracted(response: str, *, faithful: bool = False) -> str:
    r"""Return what stands in the first ``<answer>...</answer>``, or the whole response without one.

    The form that ``eval.formatting`` demands has line breaks inside the tags. The published pattern
    does not match across lines, so there a well-formed response is always compared whole, thinking
    included, and a number in the thinking can count as its answer. Ours matches across lines.

    >>> extracted("<answer>\n5\n</answer> or \\boxed{4}")
    '\n5\n'
    """
    match = (ONE_LINE_ANSWER if faithful else ANSWER).search(response)
    return match.group(1) if match else response


def correct(response: str, answer: str, *, faithful: bool = False) -> bool:
    r"""Return whether the response's answer equals the ground truth.

    Equality is math-verify's: the last box counts, units, degrees, percent and ``x =`` are ignored,
    numbers agree to six digits. Two boxes side by side are one set, which equals neither of its
    members, as published: a response that names two answers has not chosen one. What math-verify
    cannot read, on either side, is not equal to anything; empty is not equal to empty.

    Args:
        response: The decoded response.
        answer: The ground truth.
        faithful: Take both as the published code does: see ``extracted`` and ``delimited``.

    Source:
        Perception-R1, verl/utils/reward_score/boxed_math_verify.py:33-43 at c47eaf2, with
        math-verify 0.9 (versions before 0.8 refuse ``3.4641016`` for ``$2\sqrt{3}$``). Published
        are time limits of 5 s that end in 0; ours are outside, and end in a missing value.
    """
    # Takes half a second to import, and is needed only where answers are really compared.
    from math_verify import parse, verify

    truth = answer.strip() if faithful else delimited(answer)
    gold = parse(truth, parsing_timeout=None)
    given = parse(extracted(response, faithful=faithful), parsing_timeout=None)
    return bool(verify(gold, given, timeout_seconds=None))
