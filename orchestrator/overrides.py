"""Changes to a recipe from the command line: ``train.steps=3 judge.nodes=2 name=first-try``.

A path leads from the recipe's root. Where its first key is a role, ``roles`` and ``with`` may be
left out: ``train.steps`` is ``roles.train.with.steps``, and ``judge.nodes`` is
``roles.judge.nodes`` because ``nodes`` is a key of roles. A key with a dot in it goes in double
quotes. Values are written as in a recipe (``[1, 2]``, ``{a: 1}``, ``"no"``); ``null`` takes the
key out, so that its default holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator import strict_yaml
from orchestrator.errors import InputError, nearest
from orchestrator.rendezvous import PLACEHOLDER
from orchestrator.strict_yaml import Node

_ASSIGNMENT = re.compile(r'((?:"[^"]*"|[^\s."=]+)(?:\.(?:"[^"]*"|[^\s."=]+))*)=(.*)', re.DOTALL)
_KEY = re.compile(r'"([^"]*)"|([^\s."=]+)')


def apply(tree: Node, overrides: Sequence[str], *, top: set[str], role: set[str]) -> Node:
    """Return the recipe ``tree`` with every override put in, the later one winning.

    Args:
        tree: A whole recipe.
        overrides: ``key.path=value`` each.
        top: The keys a recipe has.
        role: The keys a role has.

    Raises:
        InputError: An override is not an assignment, or its first key is neither in ``top`` nor a role.
    """
    for text in overrides:
        path, value = parse(text)
        tree = _put(tree, full_path(path, text, tree, top=top, role=role), value, text)
    return tree


def parse(text: str) -> tuple[list[str], Node]:
    """Return the keys on the left of ``text`` and the value on its right.

    A value that begins with a placeholder is a string, quoted or not: in YAML, ``{tiny.policy}``
    would be a mapping that nobody means. An empty value is the empty string.

    Raises:
        InputError: ``text`` is not ``key.path=value``.
    """
    match = _ASSIGNMENT.fullmatch(text) if text.isprintable() else None
    if match is None:
        raise InputError(
            f"override {text!r}: is not an assignment on one line. Write key.path=value, for example train.steps=3."
        )
    path = [quoted or bare for quoted, bare in _KEY.findall(match.group(1))]
    value, place = match.group(2), f"override {text!r}"
    if not value or PLACEHOLDER.match(value):
        return path, Node(value, place)
    return path, strict_yaml.loads(value, lambda _line: place)


def full_path(path: list[str], text: str, tree: Node, *, top: set[str], role: set[str]) -> list[str]:
    """Return ``path`` from the recipe's root, with ``roles`` and ``with`` put in where they were left out."""
    roles = tree.value["roles"].value if isinstance(tree.value, dict) and "roles" in tree.value else {}
    names = set(roles) if isinstance(roles, dict) else set()
    if path[0] in top:
        return path
    if path[0] not in names:
        raise InputError(
            f"override {text!r}: the recipe has neither a key nor a role {path[0]!r}. {nearest(path[0], top | names)}"
        )
    if len(path) == 1 or path[1] in role:
        return ["roles", *path]
    return ["roles", path[0], "with", *path[1:]]


def _put(node: Node, path: list[str], value: Node, text: str) -> Node:
    if not path:
        return value
    if node.value is not None and not isinstance(node.value, dict):
        raise InputError(f"override {text!r}: {path[0]!r} lies in a value that is not a mapping, set at {node.place}.")
    entries = dict(node.value or {})
    if len(path) == 1 and value.value is None:
        entries.pop(path[0], None)
    else:
        entries[path[0]] = _put(entries.get(path[0], Node(None, value.place)), path[1:], value, text)
    return Node(entries, node.place)
