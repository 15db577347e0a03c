"""The base of everything a person writes: frozen, typed, unknown keys refused."""

from __future__ import annotations

from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import nearest

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails


class Section(BaseModel):
    """One mapping of a recipe, a profile or a job's settings. The string under a field documents it."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        # Built at first use: a section inside another never needs a validator of its own.
        defer_build=True,
    )


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing wrong with data that was meant for a section, told apart from where it was written.

    Attributes:
        path: Keys and list positions from the data's root.
        fact: What is wrong, with the value, as a full sentence.
        way_out: What to do about it; empty if the fact says it.
    """

    path: tuple[str | int, ...]
    fact: str
    way_out: str = ""


def faults(error: ValidationError, model: type[BaseModel], data: Any) -> list[Fault]:
    """Return every problem that validating ``data`` as ``model`` found, in the words of this project."""
    return list(dict.fromkeys(_fault(detail, model, data) for detail in error.errors()))


def _fault(detail: ErrorDetails, model: type[BaseModel], data: Any) -> Fault:
    kind, location = detail["type"], detail["loc"]
    path = _path(location, data, missing=kind == "missing")
    if kind == "extra_forbidden":
        return Fault(path=path, fact="No such key.", way_out=nearest(str(path[-1]), _keys(model, path[:-1])))
    if kind == "missing":
        return Fault(path=path, fact="The key is missing.")
    if kind == "value_error":
        return Fault(path=path, fact=str(detail["ctx"]["error"]))
    shown = repr(detail["input"])
    return Fault(path=path, fact=f"{detail['msg']}, got {shown if len(shown) <= 80 else shown[:77] + '...'}.")


def _path(location: tuple[str | int, ...], data: Any, *, missing: bool) -> tuple[str | int, ...]:
    """Leave out what pydantic adds to a location: names of a union's branches and ``[key]``."""
    path: list[str | int] = []
    for step in location:
        inside = isinstance(data, dict) and step in data
        if inside or (isinstance(data, (list, tuple)) and isinstance(step, int) and step < len(data)):
            path.append(step)
            data = data[step]
    return (*path, location[-1]) if missing else tuple(path)


def _keys(model: type[BaseModel], path: tuple[str | int, ...]) -> set[str]:
    """Return the keys that the section at ``path`` below ``model`` knows."""
    types: list[Any] = [model]
    for step in path:
        types = [inner for outer in types for inner in _step(outer, step)]
    return {field.alias or name for type_ in types for name, field in _fields(type_).items()}


def _step(outer: Any, step: str | int) -> list[Any]:
    known = {field.alias or name: field for name, field in _fields(outer).items()}
    if step in known:
        return _members(known[str(step)].annotation)
    held = [part for part in get_args(outer) if part is not Ellipsis]
    return _members(held[-1]) if held and get_origin(outer) in (dict, list, tuple) else []


def _members(annotation: Any) -> list[Any]:
    """Return the types a value may have: the branches of a union, what ``Annotated`` wraps."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [member for branch in get_args(annotation) for member in _members(branch)]
    return [annotation]


def _fields(type_: Any) -> dict[str, FieldInfo]:
    return type_.model_fields if isinstance(type_, type) and issubclass(type_, BaseModel) else {}


def held_models(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return ``model`` and every section that a value of it can hold, each once."""
    found: list[type[BaseModel]] = []
    left: list[Any] = [model]
    while left:
        type_ = left.pop()
        if type_ in found:
            continue
        if isinstance(type_, type) and issubclass(type_, BaseModel):
            found.append(type_)
            left += [field.annotation for field in type_.model_fields.values()]
        else:
            left += [part for part in get_args(type_) if part is not Ellipsis]
    return found
