"""Where answers come from: a model in this process, in Ray actors side by side, or behind an address.

Importing this module is light; an engine's libraries are imported when one is built.
"""

from __future__ import annotations

from eval.generation import Engine
from eval.settings import Settings


def build(settings: Settings, model: str) -> Engine:
    """Return the engine that the settings name, in this process, holding the weights of ``model``.

    Raises:
        InputError: The settings do not fit the model.
    """
    if settings.engine == "vllm":
        from eval.engines.vllm import VllmEngine

        return VllmEngine(settings, model)
    from eval.engines.hf import HfEngine

    return HfEngine(settings, model)
