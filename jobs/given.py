"""``key=value`` words of a command line as a section, read as a recipe's overrides are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from orchestrator import overrides, section, strict_yaml
from orchestrator.errors import InputError, Problem, all_at_once
from orchestrator.section import Section

S = TypeVar("S", bound=Section)


def put(tree: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """Put every ``key.key=value`` into ``tree`` and return it.

    Raises:
        InputError: A word is no assignment, or goes below a value.
    """
    for text in given:
        keys, node = overrides.parse(text)
        _put(tree, keys, strict_yaml.plain(node), text)
    return tree


def valid(model: type[S], tree: dict[str, Any]) -> S:
    """Return the section that ``tree`` makes.

    Raises:
        InputError: A value cannot be used; all problems are listed.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = [
            Problem(place=".".join(map(str, each.path)), fact=each.fact, way_out=each.way_out)
            for each in section.faults(error, model, tree)
        ]
        raise all_at_once("--with", problems) from None


def _put(tree: dict[str, Any], keys: Sequence[str], value: Any, text: str) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise InputError(f"--with: {text!r} goes below {key!r}, which is a value already.")
    tree[keys[-1]] = value
