"""What of a run has to be the same when it is killed and resumed, by the settings of its training role.

Engine ``hf`` on CPUs samples every response by a seed of its own and sums in a fixed order, so everything is
promised, to the bit, given the same verdicts. Where that does not hold, the order of the data still does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.plan import Role


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What has to be equal.

    Attributes:
        bits: Responses, rewards, metrics, weights and optimiser. Without it they are compared, and may differ.
        order: Which prompts are sampled in which step, how often and in which order.
        because: Why something is not promised, a sentence each.
    """

    bits: bool
    order: bool
    because: tuple[str, ...] = ()


def of(role: Role) -> Promise:
    """Return what is promised for a training role."""
    settings = role.settings
    because = []
    if value(settings, "engine", "name", default="hf") != "hf":
        name = value(settings, "engine", "name", default="hf")
        because.append(f"engine.name is {name}: it does not sample the same tokens twice, so only data order is exact.")
    if role.gpus_per_node:
        because.append("The role has GPUs, whose sums depend on the order in which threads end.")
    refills = value(settings, "algorithm", "refills", default=0)
    if because and refills:
        because.append(f"algorithm.refills is {refills}: which prompts are drawn depends on what was sampled.")
    return Promise(bits=not because, order=not (because and refills), because=tuple(because))


def value(settings: dict[str, Any], *path: str, default: Any) -> Any:
    """Return a setting, or the default of a recipe that does not name it."""
    found: Any = settings
    for key in path:
        if not isinstance(found, dict) or key not in found:
            return default
        found = found[key]
    return found
