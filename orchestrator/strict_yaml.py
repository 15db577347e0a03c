"""YAML as people believe it to be: version 1.2's core schema, no surprises, every value with its line.

Plain PyYAML follows YAML 1.1: it reads ``4:00:00`` as 14400, ``no`` as False, ``1e-6`` as a string
and keeps the last of two equal keys. Here a number is what looks like one, ``true`` and ``false``
are the only booleans, equal keys are refused, and so are merge keys, tags that name types of a
program, NaN, and documents made to exhaust a reader (alias bombs, deep nesting, huge files).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from orchestrator.errors import InputError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 40
MAX_VALUES = 20_000
LARGEST_INTEGER = 2**63 - 1

KeyPath: TypeAlias = tuple[str | int, ...]
Value: TypeAlias = "dict[str, Node] | list[Node] | str | int | float | bool | None"

_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_FLOAT = re.compile(f"{_NUMBER.pattern}|{_NOT_FINITE.pattern}")
_SCALARS = (("null", _NULL), ("bool", _BOOLEAN), ("int", _INTEGER), ("float", _FLOAT))
# Escapes can spell them ("\0"); no path, environment or UTF-8 file can carry them.
_UNUSABLE = re.compile(r"[\0\ud800-\udfff]")
# Characters that change the order in which a line is shown: a reviewer would not see what is read.
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Node:
    """A value and where it was written.

    Attributes:
        value: A scalar, or more nodes.
        place: ``"recipes/geo3k.yaml:12"``; for an entry of a mapping, the line of its key.
    """

    value: Value
    place: str


def load(path: Path) -> Node:
    """Return the one document in the file at ``path``.

    Raises:
        InputError: The file cannot be read, or is not the YAML that this module accepts.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: is larger than {MAX_BYTES // 1024} KiB. That is not a file of settings.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: is not UTF-8 text. Save the file as UTF-8.") from None
    return loads(text, lambda line: f"{path}:{line}")


def loads(text: str, place: Callable[[int], str]) -> Node:
    """Return the one document in ``text``.

    Args:
        text: YAML.
        place: Names a line, counted from 1, in errors and nodes.

    Raises:
        InputError: The text is empty, or not the YAML that this module accepts.
    """
    hidden = _DIRECTION.search(text)
    if hidden:
        line = text[: hidden.start()].count("\n") + 1
        raise InputError(
            f"{place(line)}: has the invisible character U+{ord(hidden.group()):04X}, which changes the order in "
            "which the line is shown. Remove it."
        )
    root = _compose(text, place)
    if root is None:
        raise InputError(f"{place(1)}: is empty. Nothing is described.")
    return _Reader(place).read(root)


def plain(node: Node) -> Any:
    """Return the value without its places: dictionaries, lists and scalars."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def place_of(node: Node, path: KeyPath) -> str:
    """Return where the value at ``path`` was written; where it is absent, the place of what should hold it."""
    for step in path:
        child = _child(node, step)
        if child is None:
            break
        node = child
    return node.place


def dump(data: Any) -> str:
    """Return ``data`` as YAML that both this module and a YAML 1.1 reader read back unchanged."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _child(node: Node, step: str | int) -> Node | None:
    if isinstance(node.value, dict):
        return node.value.get(str(step))
    if isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
        return node.value[step]
    return None


class _Composer(yaml.SafeLoader):
    """PyYAML's composer, which recurses, held to a depth that the stack survives."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _too_deep(self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def resolve(self, kind: type[yaml.Node], value: str, implicit: Any) -> str:
        """Return the tag of a value that has none: by its text if it is a plain scalar."""
        if kind is yaml.MappingNode:
            return _TAG + "map"
        if kind is yaml.SequenceNode:
            return _TAG + "seq"
        names = (name for name, pattern in _SCALARS if implicit[0] and pattern.fullmatch(value))
        return _TAG + next(names, "str")


def _too_deep(mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=f"is nested more than {MAX_DEPTH} levels deep", problem_mark=mark)


def _compose(text: str, place: Callable[[int], str]) -> yaml.Node | None:
    try:
        loader = _Composer(text)
        node: yaml.Node | None = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f"{error.context}: " if error.context else ""
        raise InputError(
            f"{place(mark.line + 1 if mark else 1)}: is not valid YAML: {context}{error.problem}."
        ) from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise InputError(f"{place(line)}: has the unprintable character U+{ord(_character(error)):04X}.") from None
    except (ValueError, OverflowError) as error:
        # PyYAML turns ``%YAML 1.99999...`` and escapes like "\UFFFFFFFF" into numbers without a check.
        raise InputError(f"{place(1)}: is not valid YAML: {error}.") from None
    return node


def _character(error: yaml.reader.ReaderError) -> str:
    return error.character if isinstance(error.character, str) else chr(error.character)


class _Reader:
    """Turns PyYAML's nodes into ours; counts values after aliases are followed, as a bomb would explode."""

    def __init__(self, place: Callable[[int], str]) -> None:
        self._place = place
        self._count = 0

    def read(self, node: yaml.Node, line: int | None = None, depth: int = 0) -> Node:
        here = self._place(node.start_mark.line + 1 if line is None else line)
        self._count += 1
        if self._count > MAX_VALUES:
            raise InputError(f"{here}: the document has more than {MAX_VALUES} values once its aliases are followed.")
        if depth > MAX_DEPTH:
            raise InputError(f"{here}: is nested more than {MAX_DEPTH} levels deep once its aliases are followed.")
        if isinstance(node, yaml.MappingNode):
            return Node(self._mapping(node, here, depth), here)
        if isinstance(node, yaml.SequenceNode):
            _refuse_tag(node, here, "seq")
            return Node([self.read(item, depth=depth + 1) for item in node.value], here)
        return Node(_scalar(node, here), here)

    def _mapping(self, node: yaml.MappingNode, here: str, depth: int) -> dict[str, Node]:
        _refuse_tag(node, here, "map")
        result: dict[str, Node] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = _key(key_node, self._place(line))
            if key in result:
                raise InputError(
                    f"{self._place(line)}: the key {key!r} is already set at {result[key].place}. Keep one of the two."
                )
            result[key] = self.read(value_node, line, depth + 1)
        return result


def _key(node: yaml.Node, place: str) -> str:
    key = _scalar(node, place) if isinstance(node, yaml.ScalarNode) else None
    if not isinstance(key, str):
        shown = f"{node.value!s:.40}" if isinstance(node, yaml.ScalarNode) else "a mapping or a list"
        raise InputError(f"{place}: a key must be a word, got {shown}. Put quotes around it to make it a word.")
    if key == "<<" and isinstance(node, yaml.ScalarNode) and node.style is None:
        raise InputError(f"{place}: merge keys ('<<') are not read. Write the keys out, or use 'extends'.")
    return key


def _refuse_tag(node: yaml.Node, place: str, expected: str) -> None:
    if node.tag != _TAG + expected:
        raise InputError(f"{place}: the tag {_shown(node.tag)} is not read. Values have no tags here.")


def _shown(tag: str) -> str:
    return repr(tag.replace(_TAG, "!!")[:60])


def _scalar(node: yaml.Node, place: str) -> str | int | float | bool | None:
    kind = node.tag.removeprefix(_TAG)
    if kind == "str":
        return _text(node.value, place)
    pattern = dict(_SCALARS).get(kind)
    if pattern is None or not pattern.fullmatch(node.value):
        raise InputError(f"{place}: the tag {_shown(node.tag)} is not read. Values have no tags here.")
    if kind == "null":
        return None
    if kind == "bool":
        return str(node.value).lower() == "true"
    return _integer(node.value, place) if kind == "int" else _float(node.value, place)


def _text(text: str, place: str) -> str:
    unusable = _UNUSABLE.search(text)
    if unusable:
        raise InputError(f"{place}: has the character U+{ord(unusable.group()):04X}, which no file holds. Remove it.")
    return text


def _float(text: str, place: str) -> float:
    number = math.nan if _NOT_FINITE.fullmatch(text) else float(text)
    if not math.isfinite(number):
        raise InputError(f"{place}: {text[:40]} is not a finite number. Write a number, or leave the key out.")
    return number


def _integer(text: str, place: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    # 64 characters hold every integer we accept; Python refuses to convert thousands of digits.
    number = int(text, base) if len(text) <= 64 else LARGEST_INTEGER + 1
    if abs(number) > LARGEST_INTEGER:
        raise InputError(f"{place}: {text[:40]} is too large. Integers end at {LARGEST_INTEGER}.")
    return number


class _Dumper(yaml.SafeDumper):
    """Quotes every string that either version of YAML would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


for _name, _pattern in _SCALARS:
    _Dumper.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_pattern.pattern})\\Z"), None)
