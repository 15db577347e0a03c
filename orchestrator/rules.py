"""What must hold between the roles of a recipe, and no type can say.

Works on unchecked data, so that these problems are shown beside wrong types and not after them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from orchestrator.errors import nearest
from orchestrator.rendezvous import PLACEHOLDER
from orchestrator.section import Fault
from orchestrator.strict_yaml import KeyPath

_SECRET = re.compile(r"(?i).*(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)")
_EXTERNAL = {"model", "api_key_file"}
# Names that would collide with files of the run: endpoints of replicas, logs of our own processes.
_TAKEN = re.compile(r".*-[0-9]+|gateway|supervisor|report|run|latest")


def check(data: Any, *, reserved: set[str]) -> list[Fault]:
    """Return everything that is wrong between the roles of a recipe.

    Args:
        data: A whole recipe; parts of the wrong type are left to those who check types.
        reserved: Words that cannot name a role, because an override could not tell them apart.
    """
    roles = data.get("roles")
    if not isinstance(roles, dict):
        return []
    sound = {name: role for name, role in roles.items() if isinstance(role, dict)}
    found = [fault for name, role in sound.items() for fault in _role(name, role, sound, reserved)]
    return found or list(_circles(sound))


def links(role: dict[str, Any], key: str) -> list[str]:
    """Return the roles that ``needs`` or ``after`` names, whether written as a list or as one word."""
    value = role.get(key, [])
    value = [value] if isinstance(value, str) else value
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def services(roles: dict[str, Any]) -> set[str]:
    """Return the roles that others need while they run."""
    return {other for role in roles.values() if isinstance(role, dict) for other in links(role, "needs")}


def _role(name: str, role: dict[str, Any], roles: dict[str, Any], reserved: set[str]) -> Iterator[Fault]:
    here: KeyPath = ("roles", name)
    if _TAKEN.fullmatch(name) or name in reserved:
        yield Fault(path=here, fact=f"{name!r} cannot be a role's name; the run has files or keys of that name.")
    yield from _links(here, name, role, roles)
    yield from _program(here, name, role, roles)
    if name not in services(roles) and isinstance(role.get("replicas"), int) and role["replicas"] > 1:
        yield Fault(path=(*here, "replicas"), fact="Only a service, a role that another one needs, can have replicas.")
    yield from environment((*here, "environment"), role.get("environment"))
    slurm = role.get("slurm")
    yield from environment(
        (*here, "slurm", "environment"), slurm.get("environment") if isinstance(slurm, dict) else None
    )
    yield from _placeholders((*here, "with"), role.get("with"), name, role, roles)


def _links(here: KeyPath, name: str, role: dict[str, Any], roles: dict[str, Any]) -> Iterator[Fault]:
    running = services(roles)
    for key in ("needs", "after"):
        for other in links(role, key):
            if other not in roles:
                known = nearest(other, roles.keys() - {name}, "roles")
                yield Fault(path=(*here, key), fact=f"There is no role {other!r}.", way_out=known)
    for other in links(role, "after"):
        if other in running:
            way_out = f"Put it under 'needs' of {name!r} only, or take it out of every 'needs'."
            yield Fault(path=(*here, "after"), fact=f"The service {other!r} never finishes by itself.", way_out=way_out)


def _program(here: KeyPath, name: str, role: dict[str, Any], roles: dict[str, Any]) -> Iterator[Fault]:
    """Yield what is wrong with what the role runs: a job, or the address of a service that runs elsewhere."""
    if role.get("url") is None:
        if role.get("job", "") == "":
            yield Fault(path=(*here, "job"), fact="The key is missing.")
        return
    if name not in services(roles):
        fact = "Only a service, a role that another one needs, can run elsewhere."
        yield Fault(path=(*here, "url"), fact=fact, way_out="Take the url out, or add the role to a 'needs'.")
    written = role.get("with", {})
    settings = written if isinstance(written, dict) else {}
    model = settings.get("model")
    if not isinstance(model, str) or not model or PLACEHOLDER.search(model):
        fact = "A service that runs elsewhere must be asked for a model by the name it has there."
        yield Fault(path=(*here, "with", "model"), fact=fact, way_out="Write with: {model: NAME}.")
    if not isinstance(settings.get("api_key_file", ""), str):
        yield Fault(path=(*here, "with", "api_key_file"), fact="The key's file is not a path.")
    # Beside a job, the rest of `with` is the job's, so that one override can switch to the url and back.
    for key in settings.keys() - _EXTERNAL if role.get("job", "") == "" else ():
        yield Fault(path=(*here, "with", key), fact="No such key.", way_out=nearest(str(key), _EXTERNAL))


def environment(here: KeyPath, written: Any) -> Iterator[Fault]:
    """Yield what must not be set in an environment that is written down: secrets, and what the supervisor sets.

    Args:
        here: Where the mapping stands.
        written: The mapping; anything else is left to those who check types.
    """
    for variable in written if isinstance(written, dict) else ():
        if str(variable).startswith("ORCH_"):
            yield Fault(path=(*here, variable), fact="ORCH_ variables are set by the supervisor.")
        elif _SECRET.fullmatch(str(variable)):
            fact = "A secret in a recipe or profile ends in plan.json and in logs."
            way_out = "Export the variable before 'submit', or name a file that holds the secret."
            yield Fault(path=(*here, variable), fact=fact, way_out=way_out)


def _placeholders(path: KeyPath, value: Any, name: str, role: dict[str, Any], roles: dict[str, Any]) -> Iterator[Fault]:
    if isinstance(value, dict):
        for key, child in value.items():
            if child is None and PLACEHOLDER.fullmatch("{" + key + "}"):
                yield Fault(
                    path=path, fact=f"YAML reads {{{key}}} as a mapping.", way_out=f'Write "{{{key}}}" in quotes.'
                )
            yield from _placeholders((*path, key), child, name, role, roles)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _placeholders((*path, index), child, name, role, roles)
    elif isinstance(value, str):
        for match in PLACEHOLDER.finditer(value):
            yield from _placeholder(path, match, name, role, roles)


def _placeholder(
    path: KeyPath, match: re.Match[str], name: str, role: dict[str, Any], roles: dict[str, Any]
) -> Iterator[Fault]:
    other = match.group(1)
    if other not in roles:
        fact = f"{match.group()} names no role of this recipe."
        yield Fault(path=path, fact=fact, way_out=nearest(other, roles.keys() - {name}, "roles"))
    elif other not in {*links(role, "needs"), *links(role, "after")}:
        way_out = f"Add {other!r} to 'after' of {name!r}, or to 'needs' if it is a service."
        yield Fault(path=path, fact=f"{match.group()} may not exist when {name!r} starts.", way_out=way_out)


def _circles(roles: dict[str, Any]) -> Iterator[Fault]:
    """Yield one fault if roles wait for each other in a circle, naming the way round."""
    waits = {name: [*links(role, "needs"), *links(role, "after")] for name, role in roles.items()}
    free: set[str] = set()
    while loose := {name for name, others in waits.items() if name not in free and set(others) <= free}:
        free |= loose
    stuck = sorted(waits.keys() - free)
    if not stuck:
        return
    trail = [stuck[0]]
    while trail[-1] not in trail[:-1]:
        trail.append(next(other for other in waits[trail[-1]] if other not in free))
    circle = trail[trail.index(trail[-1]) :]
    yield Fault(path=("roles", circle[0]), fact=f"Roles wait for each other: {' -> '.join(circle)}.")
