"""Which facts of an extractor's reply can be used, and why the others cannot.

A pure function of the reply, the true answer and the settings, so a change of settings is applied to replies
that were paid for long ago.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from eval.facts import FACT
from jobs.construct.settings import Facts

TAG = re.compile(r"</?\s*info\s*\d*\s*>", re.IGNORECASE)
SEVERAL = re.compile(r";|[.!?]\s+[A-Z]|\n")
OF_THE_ANSWER = re.compile(r"\\boxed|</?answer>|\b(answers?|therefore|hence|thus|conclude|solution)\b|∴", re.IGNORECASE)
DELIMITERS = re.compile(r"\$|\\[()\[\]]|\\left|\\right|\\[,;! ]")
NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w])")
NONE = {"none", "none.", "n/a", "nothing"}


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A fact that is left out.

    Attributes:
        fact: Its text.
        reason: Why, in a few words that are the same for all of a kind.
    """

    fact: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Sifted:
    """What a reply holds.

    Attributes:
        kept: Facts that can be used, in the order written.
        dropped: The others.
    """

    kept: tuple[str, ...]
    dropped: tuple[Dropped, ...]


def sift(reply: str, answer: str, settings: Facts) -> Sifted:
    """Return the facts of a reply, divided into those that can be used and those that cannot.

    The tags' numbers are not believed: the facts kept are numbered anew. White space in a fact becomes one space,
    as facts stand on lines of their own. Text outside tags is no fact; what is left of a torn tag is dropped.

    Args:
        reply: The extractor's.
        answer: The true one, which no fact may give away.
        settings: The limits.
    """
    kept: list[str] = []
    dropped: list[Dropped] = []
    for written in (text for _, text in FACT.findall(reply)):
        fact = " ".join(written.split())
        reason = _fault(written, fact, answer, settings) or _too_much(fact, kept, settings)
        if reason:
            dropped.append(Dropped(fact=fact, reason=reason))
        else:
            kept.append(fact)
    dropped += [Dropped(fact=tag, reason="torn tag") for tag in TAG.findall(FACT.sub("", reply))]
    return Sifted(kept=tuple(kept), dropped=tuple(dropped))


def gives_away(fact: str, answer: str, *, strict: bool) -> bool:
    r"""Return whether a fact says what the answer is.

    Speaking of the answer is always enough. With ``strict`` so is its value, compared as a number if it is one, else
    without white space and delimiters; a fact that holds it by chance is lost too, which costs less than a reward
    for guessing. The letter of a choice is no value: points are called A as well.

    >>> gives_away("AB is labelled 12.0", "$12$", strict=True), gives_away("AB is labelled 120", "12", strict=True)
    (True, False)
    >>> gives_away("Point A lies on the circle", "A", strict=True), gives_away("Choice A", "A", strict=True)
    (False, True)
    """
    if OF_THE_ANSWER.search(fact):
        return True
    value = _value(answer)
    if not strict or not value:
        return False
    if len(value) == 1 and value.isalpha():
        return re.search(rf"\b(choice|option)\s*\(?{value}\b", fact, re.IGNORECASE) is not None
    number = _number(value)
    if number is not None:
        return any(_number(found) == number for found in NUMBER.findall(fact))
    spaced = r"\s*".join(map(re.escape, value))
    return re.search(rf"(?<![\w.]){spaced}(?!\w)", DELIMITERS.sub("", fact)) is not None


def _fault(written: str, fact: str, answer: str, settings: Facts) -> str:
    """Return why a fact cannot be used by itself, or nothing."""
    if TAG.search(fact):
        return "torn tag"
    if fact.casefold() in NONE:
        return "no fact"
    if len(fact) < settings.chars_min:
        return "too short"
    if len(fact) > settings.chars_max or len(fact.split()) > settings.words_max:
        return "too long"
    if SEVERAL.search(written.strip()):
        return "several facts in one"
    if settings.leak != "off" and gives_away(fact, answer, strict=settings.leak == "strict"):
        return "gives the answer away"
    return ""


def _too_much(fact: str, kept: list[str], settings: Facts) -> str:
    if _plain(fact) in map(_plain, kept):
        return "duplicate"
    return "beyond the most" if len(kept) >= settings.most else ""


def _plain(fact: str) -> str:
    return re.sub(r"[\s.]+", " ", fact.casefold()).strip()


def _value(answer: str) -> str:
    boxed = re.fullmatch(r"\s*\$*\s*\\boxed\{(.*)\}\s*\$*\s*", answer, re.DOTALL)
    return re.sub(r"\s", "", DELIMITERS.sub("", boxed.group(1) if boxed else answer))


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None
