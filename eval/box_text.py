r"""Boxes and points that a model wrote, read out of its text.

Nothing here raises for any text, nothing evaluates it, and nothing knows units: numbers come back
as they were written. What a box is worth, and whether it is one, is for the metric to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from eval.target import Box, Point
from eval.thinking import answer

Writes = Literal["boxes", "points"]

LARGEST = 1e9
"""No image has a coordinate beyond; numbers that do are no coordinates."""

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_PAIR = rf"{_NUMBER}\s*,\s*{_NUMBER}"
_FOUR = rf"{_PAIR}\s*,\s*{_PAIR}"
_CORNERS = rf"\(\s*{_PAIR}\s*\)\s*(?:,\s*)?\(\s*{_PAIR}\s*\)"
_NESTED = rf"\[\s*{_PAIR}\s*\]\s*,\s*\[\s*{_PAIR}\s*\]"
BOX = re.compile(rf"{_CORNERS}|{_NESTED}|\[\s*{_FOUR}\s*\]|\(\s*{_FOUR}\s*\)")
POINT = re.compile(rf"\(\s*{_PAIR}\s*\)|\[\s*{_PAIR}\s*\]")
POINT_OR_BOX = re.compile(rf"{POINT.pattern}|\[\s*{_FOUR}\s*\]|\(\s*{_FOUR}\s*\)")
MARKED = re.compile(r"<\|box_start\|>([^<]*)<\|box_end\|>")
PUBLISHED = tuple(
    re.compile(pattern)
    for pattern in (rf"\[\s*{_FOUR}\s*\]", rf"\(\s*{_FOUR}\s*\)", rf"\(\s*{_PAIR}\s*\),\s*\(\s*{_PAIR}\s*\)")
)
PUBLISHED_IN_EVALUATION = (*PUBLISHED[:2], re.compile(rf"\(\s*{_PAIR}\s*\)\s*,\s*\(\s*{_PAIR}\s*\)"))
MARKED_CORNERS = re.compile(rf"\s*[(\[]\s*{_PAIR}\s*[)\]]\s*,\s*[(\[]\s*{_PAIR}\s*[)\]]\s*")
NUMBERS = frozenset({int, float})
FENCE = re.compile(r"```[a-zA-Z]*")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A list of boxes with names, as found in a text.

    Attributes:
        items: What could be read, in the order of writing: a name and the corners as written.
        malformed: Entries that could not; text after which nothing could be read is one.
        whole: The answer is one JSON list and nothing else.
        unboxed: Names of malformed entries that have a name and a box, but no four numbers in it.
    """

    items: tuple[tuple[str, Box], ...] = ()
    malformed: int = 0
    whole: bool = False
    unboxed: tuple[str, ...] = ()

    @property
    def entries(self) -> int:
        """How many entries there are, readable or not."""
        return len(self.items) + self.malformed


def boxes(text: str) -> list[Box]:
    """Return every box that the answer states, in the order of writing.

    Read are ``(x1, y1), (x2, y2)`` between Qwen's box tokens or without them, ``[x1, y1, x2, y2]``,
    ``(x1, y1, x2, y2)`` and ``[[x1, y1], [x2, y2]]``, wherever they stand, in JSON too. Where the
    text has ``<think>`` or ``<answer>``, only the answer is looked at: see ``eval.thinking``.

    >>> boxes("the dog<|box_start|>(10,20),(110,220)<|box_end|>, the cat [1, 2, 3.5, 4]")
    [(10.0, 20.0, 110.0, 220.0), (1.0, 2.0, 3.5, 4.0)]
    """
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in _matches(BOX, answer(text))]


def points(text: str, writes: Writes = "boxes") -> list[Point]:
    """Return every point that the answer states, in the order of writing.

    Args:
        text: The decoded response.
        writes: What two pairs in a row are: ``boxes`` takes them for the corners of one box, whose middle
            is the point, and single pairs for points only where there is no box; ``points`` takes each
            for a point. Four numbers in one bracket are a box either way.

    >>> points("(10,20),(30,40)"), points("(10,20),(30,40)", "points"), points("(3, 4)")
    ([(20.0, 30.0)], [(10.0, 20.0), (30.0, 40.0)], [(3.0, 4.0)])
    """
    said = answer(text)
    found = list(_matches(BOX if writes == "boxes" else POINT_OR_BOX, said)) or list(_matches(POINT, said))
    return [_middle(numbers) for numbers in found]


def first_as_published(text: str, *, evaluating: bool = False) -> Box | None:
    """Return the box that PR1 reads: the first ``[a,b,c,d]``, else ``(a,b,c,d)``, else ``(a,b),(c,d)``.

    In the last form the comma must follow at once in training, and need not in evaluation.

    Source:
        PR1, src/open_r1/utils.py:108-140 and eval/evaluate_grounding.py:12-53 at 48d5558.
    """
    for pattern in PUBLISHED_IN_EVALUATION if evaluating else PUBLISHED:
        found = next(_matches(pattern, text), None)
        if found is not None:
            x1, y1, x2, y2 = found
            return x1, y1, x2, y2
    return None


def marked(text: str) -> list[Box]:
    """Return the boxes between ``<|box_start|>`` and ``<|box_end|>``; what is no ``(x1,y1),(x2,y2)`` is left out."""
    found = map(MARKED_CORNERS.fullmatch, MARKED.findall(text))
    numbers = (_coordinates(match.groups()) for match in found if match)
    return [(box[0], box[1], box[2], box[3]) for box in numbers if box is not None]


def labelled(text: str, *, faithful: bool = False) -> Labelled:
    r"""Return the boxes with names of the answer: JSON, ``[{"bbox_2d": [x1, y1, x2, y2], "label": "cat"}]``.

    A code fence around it is taken off. An entry without a name, or without four numbers, is
    malformed and costs itself only. Of text that is no JSON, such as a list that was cut off, every
    entry is read that is whole; what cannot be read is one more malformed entry.

    Args:
        text: The decoded response.
        faithful: The whole response is the answer, as in PR1's training.

    >>> labelled('```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6')
    Labelled(items=(('cat', (1.0, 2.0, 3.0, 4.0)),), malformed=1, whole=False, unboxed=())
    """
    said = FENCE.sub("", text if faithful else answer(text)).strip()
    value, whole = _parsed(said)
    entries = value if whole else list(_objects(said))
    read = [_item(entry) for entry in entries]
    items = [item for item in read if item is not None]
    malformed = len(entries) - len(items) + (0 if whole else 1)
    unread = (entry for entry, item in zip(entries, read, strict=True) if item is None)
    unboxed = tuple(entry["label"] for entry in unread if _has_name_and_box(entry))
    return Labelled(items=tuple(items), malformed=malformed, whole=whole, unboxed=unboxed)


def _parsed(text: str) -> tuple[list[Any], bool]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return [], False
    return (value, True) if isinstance(value, list) else ([], False)


def _objects(text: str) -> Iterator[Any]:
    """Yield every innermost JSON object of a text that as a whole is none."""
    for part in re.findall(r"\{[^{}]*\}", text):
        try:
            yield json.loads(part)
        except (ValueError, RecursionError):
            yield None


def _item(entry: Any) -> tuple[str, Box] | None:
    if not isinstance(entry, dict):
        return None
    label, corners = entry.get("label"), entry.get("bbox_2d")
    if not isinstance(label, str) or not isinstance(corners, list) or len(corners) != 4:
        return None
    if not NUMBERS.issuperset(map(type, corners)):
        return None
    box = _coordinates(corners)
    return None if box is None else (label, (box[0], box[1], box[2], box[3]))


def _has_name_and_box(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("label"), str) and "bbox_2d" in entry


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[list[float]]:
    for match in pattern.finditer(text):
        numbers = _coordinates([group for group in match.groups() if group is not None])
        if numbers is not None:
            yield numbers


def _middle(numbers: list[float]) -> Point:
    """Return the middle of a box, or a point itself."""
    x1, y1, x2, y2 = numbers * (4 // len(numbers))
    return (x1 + x2) / 2, (y1 + y2) / 2


def _coordinates(values: Any) -> list[float] | None:
    """Return the numbers, or None if one of them is no coordinate of any image."""
    try:
        numbers = list(map(float, values))
    except OverflowError:  # An integer of JSON that no float can hold.
        return None
    return numbers if all(map(_fits, numbers)) else None


def _fits(number: float) -> bool:
    return -LARGEST <= number <= LARGEST  # NaN does not.
