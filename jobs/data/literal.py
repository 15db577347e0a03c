"""Numbers and lists out of a text of the data: read as a literal, never evaluated.

Published files write boxes as JSON, or as what Python prints: ``"[12, 34, 56, 78]"``,
``"(12, 34), (56, 78)"``, ``"{'target_id': [1], 'target_box': [[1, 2, 3, 4]]}"``.
"""

from __future__ import annotations

import ast
import json
import math
import warnings
from typing import Any

from eval.target import Box, Point

LONGEST = 1_000_000
"""Characters of a text that is still read."""


def value(text: str) -> Any:
    """Return what a text of JSON, or a literal of Python, stands for.

    Raises:
        ValueError: It is neither, or too long or too deep to be data.
    """
    if len(text) > LONGEST:
        raise ValueError(f"A text of {len(text)} characters is too long for a literal.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            # The parser warns of odd escapes; they are the data's, not ours.
            warnings.simplefilter("ignore")
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(f"{text!r:.80} is neither JSON nor a literal.") from None


def read(given: Any) -> Any:
    """Return what is given, a text as the literal it stands for.

    Raises:
        ValueError: It is a text and no literal.
    """
    return value(given) if isinstance(given, str) else given


def box(given: Any) -> Box:
    """Return corners: four numbers, or two pairs, or a list that holds only one such; as a text or not.

    Raises:
        ValueError: They are not there, or do not span a box from its upper left to its lower right corner.

    >>> box("[1, 2, 3.5, 4]"), box("(1, 2), (3, 4)"), box([[1, 2, 3, 4]])
    ((1.0, 2.0, 3.5, 4.0), (1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 4.0))
    """
    found = read(given)
    if isinstance(found, list | tuple) and len(found) == 1:
        found = found[0]
    if isinstance(found, list | tuple) and len(found) == 2:
        found = [*_pair(found[0], given), *_pair(found[1], given)]
    if not isinstance(found, list | tuple) or len(found) != 4:
        raise ValueError(f"A box is four numbers, got {given!r:.80}.")
    x1, y1, x2, y2 = (number(each) for each in found)
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"A box goes from its upper left to its lower right corner, got {given!r:.80}.")
    return x1, y1, x2, y2


def boxes(given: Any) -> tuple[Box, ...]:
    """Return a list of corners.

    Raises:
        ValueError: It is no list, or one of its items is no box.
    """
    found = read(given)
    if not isinstance(found, list | tuple):
        raise ValueError(f"Boxes are a list, got {given!r:.80}.")
    return tuple(box(each) for each in found)


def points(given: Any) -> tuple[Point, ...]:
    """Return a list of points, each ``[x, y]`` or ``{"x": x, "y": y}``; two lists of numbers by name count as well.

    Raises:
        ValueError: It is no list, or one of its items is no point.
    """
    found = read(given)
    if isinstance(found, dict) and set(found) == {"x", "y"}:
        xs, ys = found["x"], found["y"]
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise ValueError(f"Points have as many x as y, got {given!r:.80}.")
        found = list(zip(xs, ys, strict=True))
    if not isinstance(found, list | tuple):
        raise ValueError(f"Points are a list, got {given!r:.80}.")
    return tuple(_pair(each, given) for each in found)


def count(given: Any) -> int:
    """Return a number of things.

    Raises:
        ValueError: It is no whole number of at least 0.
    """
    found = number(read(given))
    if found < 0 or found != int(found):
        raise ValueError(f"A count is a whole number, got {given!r:.80}.")
    return int(found)


def number(given: Any) -> float:
    """Return a finite number.

    Raises:
        ValueError: It is something else; a truth value is.
    """
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError(f"Expected a number, got {given!r:.80}.")
    try:
        found = float(given)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"Expected a finite number, got {given!r:.80}.")
    return found


def _pair(given: Any, of: Any) -> Point:
    if isinstance(given, dict) and {"x", "y"} <= set(given):
        return number(given["x"]), number(given["y"])
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise ValueError(f"A point is two numbers, got {given!r:.80} in {of!r:.80}.")
    return number(given[0]), number(given[1])
