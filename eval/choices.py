r"""Which option of a multiple-choice question a response chose.

What counts is what the response declares, never what it mentions: an options list that is repeated,
or an option that is ruled out, is no choice. Where nothing is declared the answer is None, which is
wrong; MMMU's own script draws a letter at random there, which earns a model 1 / options for silence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from eval import thinking

SPECIAL = re.compile(r"<\|[^|<>]*\|>")
COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mathsf|operatorname)\s*\{([^{}]*)\}")
# A letter alone, in brackets, bold, or with a full stop: "B", "(B)", "**B**", "B.", "Option B".
ALONE = re.compile(r"\W*(?:(?:option|choice|answer)\b\W*)?([A-Z])\W*", re.IGNORECASE)
# A letter and then its option: "B. 12 cm", "(B) 12 cm", "B: 12 cm".
LEADING = re.compile(r"\W*\(?([A-Z])(?:\)|[.:])\s*\S", re.DOTALL)
# "A" and "I" in front of a lower-case word are English, not options, unless a reason follows.
CLEAR = r"(?:[B-HJ-Z]|[AI](?!\s+(?!because|since|as |and |which|with |for )[a-z]))(?![A-Za-z0-9'])"
NOT_DENIED = r"(?!\W{0,3}\s(?i:is|are|was|would be|cannot|can't|isn't)\s*(?i:not|wrong|incorrect|false|too|be|ruled)\b)"
# Gaps are short: a response may hold thousands of blanks, and patterns with open gaps would search for hours.
LETTER = rf"(?:[\s*_$\"'`]{{0,8}}[(\[{{]\s?([A-Za-z])\s?[)\]}}]|[\s*_$\"'`<(\[{{]{{0,8}}({CLEAR})){NOT_DENIED}"
DECLARED = re.compile(
    r"(?i:\b(?:answer|(?:correct|right|best|final)\s+(?:option|choice))\b[\s*_>]{0,8}"
    r"(?:(?:is|are|was|would be|should be|must be)\b)?[\s*_]{0,8}:?\s{0,8}(?:(?:the\s)?(?:option|choice|letter)\b)?)"
    + LETTER
)
CHOSEN = re.compile(r"(?i:\b(?:choose|select|pick|chose|selected)\b\s{0,8}(?:option|choice|answer)?)" + LETTER)
IS_RIGHT = re.compile(
    r"(?:\(([A-Z])\)|\b(?i:option|choice)\s{1,8}\(?([A-Z])\)?|\b([B-HJ-Z]))\s{1,8}"
    r"(?i:is|would be)\s{1,8}(?i:the\s{1,8})?(?i:correct|right|best|answer)\b"
)
BRACKETED = re.compile(r"\(([A-Z])\)")
NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?|[-+]?\.\d+")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NESTED = 4
"""LaTeX commands inside each other that are still taken off."""
UNKNOWN_COUNT = 10
"""Options of a question whose options nobody listed, as where they stand in the image."""


def letters(count: int) -> str:
    """Return the letters of so many options; of unknown options, 0, the first ten."""
    return LETTERS[: count or UNKNOWN_COUNT]


def listed(choices: Sequence[str], mark: str = "{letter}. {text}") -> str:
    """Return options one a line, by default ``A. 12 cm``."""
    return "\n".join(mark.format(letter=letter, text=text) for letter, text in zip(LETTERS, choices, strict=False))


def boxed(text: str) -> str | None:
    r"""Return what stands in the last ``\boxed{}``, braces balanced; None without one.

    >>> boxed(r"\boxed{1} so \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, inside = 1, start + len("\\boxed{")
    for position in range(inside, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[inside:position]
    # Cut off in the middle of the box: what is there is what was answered.
    return text[inside:]


def answer_text(response: str) -> str:
    """Return the part of a response that answers, see ``eval.thinking``; an ``<answer>`` may be cut off."""
    return SPECIAL.sub("", thinking.answer(response)).rpartition("<answer>")[2].strip()


def letter(response: str, choices: Sequence[str] = ()) -> str | None:
    r"""Return the letter that a response chose, or None if it declares none, or several.

    Looked for in the answer's text, the first that is there deciding:

    1. the last ``\boxed{}``, which holds a letter, a letter with its option, or an option's text;
    2. a letter on its own: ``B``, ``(B)``, ``**B**.``;
    3. a declaration, the last one: "the answer is (B)", "Answer: B", "I choose B", "option B is correct";
    4. a letter with its option at the start, if no other letter has that form: ``B. 12 cm``;
    5. one letter in brackets, if its last line has no other;
    6. the text of one option, if no other option's text is there.

    Args:
        response: The decoded response.
        choices: Texts of the options, in order; empty if they are not known, as where they stand in
            the image. Then ten letters are possible.

    >>> letter(r"<answer>\boxed{B}</answer>"), letter("The answer is (C)."), letter("It is A right angle.")
    ('B', 'C', None)
    """
    text = answer_text(response)
    possible = letters(len(choices))
    box = boxed(text)
    if box is not None:
        return _in_box(box, choices, possible)
    for find in (_alone, _declared, _leading, _bracketed):
        found = find(text, possible)
        if found:
            return found
    return _by_text(text, choices)


def _in_box(box: str, choices: Sequence[str], possible: str) -> str | None:
    text = _plain(box)
    exact = _equal_text(text, choices)
    # "4" may be option B's text, and "B" option C's: a letter is read as a letter first.
    return _alone(text, possible) or _leading(text, possible) or exact or _by_number(text, choices)


def _alone(text: str, possible: str) -> str | None:
    match = ALONE.fullmatch(text)
    if match is None:
        return None
    found = match.group(1).upper()
    return found if found in possible else None


def _declared(text: str, possible: str) -> str | None:
    matches = [match for pattern in (DECLARED, CHOSEN, IS_RIGHT) for match in pattern.finditer(text)]
    for match in sorted(matches, key=lambda match: -match.start()):
        found = next(group for group in match.groups() if group).upper()
        if found in possible and not _is_denied(text, match.start()):
            return found
    return None


def _is_denied(text: str, start: int) -> bool:
    return bool(
        re.search(
            r"\b(?:not|isn't|wrong|incorrect|eliminate|rule out)\W*(?:the\s+)?$", text[max(0, start - 40) : start], re.I
        )
    )


def _leading(text: str, possible: str) -> str | None:
    match = LEADING.match(text)
    if match is None or match.group(1) not in possible:
        return None
    marked = re.findall(r"(?m)^[ \t*>#-]{0,8}\(?([A-Z])(?:\)|[.:])\s", text) + BRACKETED.findall(text)
    others = {found for found in marked if found in possible}
    return match.group(1) if others <= {match.group(1)} else None


def _bracketed(text: str, possible: str) -> str | None:
    for line in reversed(text.splitlines()):
        found = {letter for letter in BRACKETED.findall(line) if letter in possible}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _by_text(text: str, choices: Sequence[str]) -> str | None:
    """Return the one option whose text stands in the response; one inside another's text does not count."""
    inside = _normal(_plain(text))
    found = []
    for position, choice in sorted(enumerate(choices), key=lambda item: -len(item[1])):
        words = _normal(choice)
        if words and re.search(rf"(?<!\w){re.escape(words)}(?!\w)", inside):
            found.append(position)
            inside = inside.replace(words, "\n")
    return LETTERS[found[0]] if len(found) == 1 else None


def _equal_text(text: str, choices: Sequence[str]) -> str | None:
    found = [position for position, choice in enumerate(choices) if _normal(_plain(choice)) == _normal(text)]
    return LETTERS[found[0]] if len(found) == 1 and _normal(text) else None


def _by_number(text: str, choices: Sequence[str]) -> str | None:
    """Return the one option with the same number, so that ``\\boxed{12}`` chooses "12 cm"."""
    number = _number(text)
    if number is None:
        return None
    found = [position for position, choice in enumerate(choices) if _number(_plain(choice)) == number]
    return LETTERS[found[0]] if len(found) == 1 else None


def _number(text: str) -> float | None:
    """Return the number of a text that has exactly one, and no formula around it."""
    found = NUMBER.findall(text)
    if len(found) != 1 or re.search(r"\\(?:frac|sqrt|pi)|[\^/*π√]", text):
        return None
    return float(found[0].replace(",", ""))


def _plain(text: str) -> str:
    for _ in range(NESTED):
        text = COMMAND.sub(r"\1", text)
    return re.sub(r"\\(?:left|right|,|;|!|\s)|\$|\*\*", "", text).strip()


def _normal(text: str) -> str:
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return words.strip(" .,;:!?\"'`()[]{}")
