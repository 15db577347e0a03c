"""A reward of your own: ``package.module:function`` in the recipe, a number for a response."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable
from typing import Any

from jobs.rewards.part import Example, Part
from orchestrator.errors import InputError


class OwnReward:
    """Calls ``function(example, response)``, plain or async. None and NaN are missing."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._function = find(name)

    async def __call__(self, example: Example, response: str) -> Part:
        value = self._function(example, response)
        if inspect.isawaitable(value):
            value = await value
        if value is None:
            return Part(value=math.nan)
        if not isinstance(value, int | float):
            raise InputError(f"rewards.{self._name}: It returned {value!r}. Return a number, or None for unknown.")
        return Part(value=float(value))

    def metrics(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        return None


def find(name: str) -> Callable[[Example, str], Any]:
    """Return the function that ``package.module:function`` names.

    Raises:
        InputError: There is no such module, or no such function in it.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"rewards.{name}: The module {module_name!r} cannot be imported ({error}). "
            "It must lie in the checkout or be installed in the environment of the jobs."
        ) from None
    function = getattr(module, attribute, None)
    if not callable(function):
        raise InputError(f"rewards.{name}: The module {module_name!r} has no function {attribute!r}.")
    found: Callable[[Example, str], Any] = function
    return found
