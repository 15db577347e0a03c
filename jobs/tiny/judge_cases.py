"""What the tiny judge learns: facts, a response, and for every fact whether the response states it.

The truth comes from reading the finished response, never from how it was made, so a response that
was cut or scrambled is judged by what is left of it. A fact is stated if colour, shape and number
agree; a response that says two numbers of one kind states neither, or a policy could earn by
listing them all.

A line of the reply restates a fact, quotes what the response says of it, says yes or no, and puts that
into the tag. Every token then needs one look: the number of the tag finds the fact, its colour the
quote, and the word comes right behind the two words it compares. A small model that has to do any
two of these at once does not learn them in minutes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jobs.data import synthetic

NUMBER_MAX = 9
NOTHING = "nothing"
WORD = "|".join(synthetic.WORDS)
QUOTES_MAX = 2

Claims = list[tuple[str, int]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One question to the judge, and the right reply.

    Attributes:
        facts: Kind and number, in order.
        response: What somebody answered.
        damage: How the response departs from a right one, for the breakdown of the accuracy.
    """

    facts: tuple[tuple[str, int], ...]
    response: str
    damage: str

    @property
    def visual_key_info(self) -> str:
        return "\n".join(f"<info{k}>{synthetic.fact(*fact)}</info{k}>" for k, fact in enumerate(self.facts, 1))

    @property
    def verdicts(self) -> tuple[bool, ...]:
        return tuple(said(self.response, kind) == {number} for kind, number in self.facts)

    @property
    def reply(self) -> str:
        lines = []
        for k, ((kind, number), verdict) in enumerate(zip(self.facts, self.verdicts, strict=True), 1):
            quote = ",".join(quoted(self.response, kind)) or NOTHING
            word = "yes" if verdict else "no"
            lines.append(f"info{k}>{synthetic.fact(kind, number)}|{quote} {word}<info{k}>{int(verdict)}</info{k}>")
        return "\n".join(lines)


def said(response: str, kind: str) -> set[int]:
    """Return the numbers that a response gives to a kind.

    >>> said("<think>\\nred circles=three\\nblue circles=one\\nred circles=four", "red circles") == {3, 4}
    True
    """
    return {synthetic.WORDS.index(word) for word in re.findall(rf"(?<!\w){kind}=({WORD})(?!\w)", response)}


def quoted(response: str, kind: str) -> list[str]:
    """Return what a response says of a kind: its different statements, at most two.

    Where it says nothing of the kind, the first other kind of that colour is quoted, which shows what
    is wrong and can be found by one word.

    >>> quoted("red squares=four\\nred circles=three\\nred circles=two", "red circles")
    ['red circles=three', 'red circles=two']
    >>> quoted("blue circles=one\\nred squares=four", "red circles")
    ['red squares']
    """
    colour = kind.split()[0]
    found = re.findall(rf"(?<!\w)({colour} (?:{'|'.join(synthetic.SHAPES)})=(?:{WORD}))(?!\w)", response)
    exact = [statement for statement in found if statement.startswith(f"{kind}=")]
    return list(dict.fromkeys(exact))[:QUOTES_MAX] or [statement.partition("=")[0] for statement in found[:1]]


def cases(split: str, number: int, *, seed: int) -> list[Case]:
    """Return ``number`` cases. Splits share no generator; a longer list begins with the shorter one."""
    return [_case(random.Random(f"{seed}/judge-{split}/{position}")) for position in range(number)]


def _case(generator: random.Random) -> Case:
    size = generator.choices((1, 2, 3), (1, 6, 1))[0]
    facts = tuple((kind, _number(generator)) for kind in _kinds(size, generator))
    claims: Claims = []
    damages = set()
    for fact in facts:
        damage = generator.choices(list(CLAIMS), [weight for weight, _ in CLAIMS.values()])[0]
        claims += CLAIMS[damage][1](fact, generator)
        damages.add(damage)
    form = generator.choices(list(FORMS), [weight for weight, _ in FORMS.values()])[0]
    total = sum(number for _, number in claims) + generator.choice((0, 0, 0, 1, -1))
    text = FORMS[form][1](synthetic.response(claims, max(0, total)), generator)
    return Case(facts=facts, response=text, damage=",".join(sorted(damages - {"right"} | ({form} - {"whole"}))))


def _kinds(size: int, generator: random.Random) -> list[str]:
    """Return different kinds: mostly as in a scene, where none share colour or shape, else any."""
    if generator.random() < 0.1:
        return generator.sample(synthetic.KINDS, size)
    pairs = zip(generator.sample(list(synthetic.COLOURS), size), generator.sample(synthetic.SHAPES, size), strict=True)
    return [f"{colour} {shape}" for colour, shape in pairs]


def _number(generator: random.Random) -> int:
    return generator.randint(1, 5 if generator.random() < 0.93 else NUMBER_MAX)


def _right(fact: tuple[str, int], _generator: random.Random) -> Claims:
    return [fact]


def _wrong_number(fact: tuple[str, int], generator: random.Random) -> Claims:
    kind, number = fact
    near = [other for other in (number - 1, number + 1) if 1 <= other <= NUMBER_MAX]
    far = [other for other in range(1, NUMBER_MAX + 1) if other != number]
    return [(kind, generator.choice(near if generator.random() < 0.7 else far))]


def _wrong_colour(fact: tuple[str, int], generator: random.Random) -> Claims:
    colour, shape = fact[0].split()
    return [(f"{generator.choice([c for c in synthetic.COLOURS if c != colour])} {shape}", fact[1])]


def _wrong_shape(fact: tuple[str, int], generator: random.Random) -> Claims:
    colour, shape = fact[0].split()
    return [(f"{colour} {generator.choice([s for s in synthetic.SHAPES if s != shape])}", fact[1])]


def _omitted(_fact: tuple[str, int], _generator: random.Random) -> Claims:
    return []


def _contradicted(fact: tuple[str, int], generator: random.Random) -> Claims:
    both = [fact, *_wrong_number(fact, generator)]
    generator.shuffle(both)
    return both


def _with_stranger(fact: tuple[str, int], generator: random.Random) -> Claims:
    return [fact, (generator.choice(synthetic.KINDS), _number(generator))]


CLAIMS: dict[str, tuple[float, Callable[[tuple[str, int], random.Random], Claims]]] = {
    "right": (40, _right),
    "wrong number": (22, _wrong_number),
    "wrong colour": (8, _wrong_colour),
    "wrong shape": (15, _wrong_shape),
    "omitted": (8, _omitted),
    "contradicted": (3, _contradicted),
    "stranger": (3, _with_stranger),
}
"""What a response may say of one fact, with weights."""


def _whole(text: str, _generator: random.Random) -> str:
    return text


def _cut(text: str, generator: random.Random) -> str:
    return text[: generator.randint(0, len(text))]


def _scrambled(text: str, generator: random.Random) -> str:
    lines = text.split("\n")
    generator.shuffle(lines)
    return "\n".join(lines)


def _untagged(text: str, _generator: random.Random) -> str:
    return re.sub(r"</?\w+>\n?", "", text)


def _repeated(text: str, generator: random.Random) -> str:
    lines = text.split("\n")
    line = generator.choice(lines)
    return "\n".join([*lines, *[line] * generator.randint(1, 3)])


FORMS: dict[str, tuple[float, Callable[[str, random.Random], str]]] = {
    "whole": (80, _whole),
    "cut": (6, _cut),
    "scrambled": (5, _scrambled),
    "untagged": (4, _untagged),
    "repeated": (5, _repeated),
}
"""What may be wrong with a response's form, with weights."""


def words(of: Sequence[Case]) -> list[str]:
    """Return the texts from which the judge's vocabulary is made."""
    return [text for case in of for text in (case.visual_key_info, case.response, case.reply)]
