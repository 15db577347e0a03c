"""Kinds of values that a person writes, in recipes and profiles alike: spans of time, environments, strict numbers."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, StringConstraints

from orchestrator.section import Section

_CLOCK = re.compile(r"(?:([0-9]{1,3})-)?([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])")
_UNITS = re.compile(r"(?:([0-9]{1,3})d)?(?:([0-9]{1,4})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,8})s)?")


def seconds(text: str) -> int:
    """Return the length of a span of time.

    ``4:00`` is refused, because Slurm reads it as four minutes and people as four hours.

    Args:
        text: ``24:00:00``, ``2-00:00:00`` (days first) or units in this order: ``1d12h``, ``90m``, ``30s``.

    Raises:
        ValueError: The text is none of these, or the span is zero.

    >>> seconds("1-12:00:00") == seconds("1d12h") == 36 * 3600
    True
    """
    match = _CLOCK.fullmatch(text) or _UNITS.fullmatch(text)
    days, hours, minutes, rest = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if not total:
        raise ValueError(f"{text!r} is not a span of time. Write '24:00:00', '2-00:00:00', '90m' or '1d12h'.")
    return total


def _span(value: object) -> object:
    if isinstance(value, str):
        seconds(value)
    elif isinstance(value, (int, float)):
        raise ValueError(f"{value!r} has no unit. Write '24:00:00', '2-00:00:00', '90m' or '1d12h'.")
    return value


def listed(value: object) -> object:
    """Return one word as a list of one; YAML's lists as tuples, which cannot be changed."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _texts(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {
        key: str(item) if isinstance(item, (int, float)) and not isinstance(item, bool) else item
        for key, item in value.items()
    }


Span = Annotated[str, BeforeValidator(_span)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Environment = Annotated[
    dict[VariableName, str],
    BeforeValidator(_texts, json_schema_input_type=dict[str, str | int | float]),
]


class Strict(Section):
    """A section that takes ``8`` for a number, but neither ``"8"`` nor ``true``."""

    model_config = ConfigDict(strict=True)
