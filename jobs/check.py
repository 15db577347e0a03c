"""Whether everything a plan names exists: jobs, and what their settings say. Starts nothing.

    python -m jobs.check runs/geo3k/plan.json
    python -m jobs.check - < plan.json

Prints one JSON object: ``problems`` can never work, ``missing`` does not work in this installation
(a package, a file). Every entry has ``path`` (keys from the recipe's root), ``place`` (the same in
one string), ``fact`` and ``way_out``. Exit code 0 even with problems: finding them is the work.

A settings module may add to what its ``Settings`` can say, with functions that take the settings:
``problems(settings)`` and ``missing(settings)`` return ``orchestrator.errors.Problem``s or sentences, and
``services(settings)`` the names of the roles that the job asks, by place. A place is a path below ``with``,
for example ``"engine.name"``; a sentence may begin with one.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from jobs.registry import JOBS, Job
from orchestrator.errors import Problem, nearest
from orchestrator.rendezvous import PLACEHOLDER
from orchestrator.section import Fault, Section, faults


@dataclass(frozen=True)
class Findings:
    """What is wrong: for ever, and on this machine."""

    problems: list[Fault] = field(default_factory=list)
    missing: list[Fault] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        self.problems.extend(other.problems)
        self.missing.extend(other.missing)


def check(roles: Iterable[dict[str, Any]]) -> Findings:
    """Return what is wrong with the jobs of ``roles`` and their settings.

    Args:
        roles: Of each the keys ``name``, ``job``, ``kind``, ``settings`` and maybe ``needs`` and ``nodes`` of a
            plan's role; of one that runs elsewhere ``name`` and ``url``. More keys may be there: a recipe with
            other problems is checked too, so that all show at once.
    """
    found = Findings()
    roles = list(roles)
    names = [role["name"] for role in roles]
    # A service that runs elsewhere is none of our jobs.
    roles = [role for role in roles if not role.get("url")]
    for role in roles:
        found.add(_role(role, names))
    counts = Counter(role["job"] for role in roles)
    for role in roles:
        job = JOBS.get(role["job"])
        if job and job.alone and counts[role["job"]] > 1:
            fact = f"Only one role of a run can be a {role['job']!r}; its checkpoints and metrics have fixed names."
            found.problems.append(Fault(path=_job_path(role), fact=fact, way_out="Give each its own recipe."))
    return found


def answer(roles: Iterable[dict[str, Any]]) -> str:
    """Return what ``check`` finds as the one JSON object that this program prints."""
    found = check(roles)
    return json.dumps({"problems": [_shown(f) for f in found.problems], "missing": [_shown(f) for f in found.missing]})


def _role(role: dict[str, Any], names: list[str]) -> Findings:
    job = _job(role["job"])
    if job is None:
        return Findings(problems=[_unknown(role)])
    found = Findings(problems=_kind(role) + _nodes(role))
    module = _settings_module(job)
    if module is not None:
        found.add(_settings(module, role, names))
    return found


def _job(name: str) -> Job | None:
    """Return the job of that name, or None if it is neither registered nor a module that can be run."""
    if name in JOBS:
        return JOBS[name] if _exists(JOBS[name].settings) else None
    runnable = "." in name and all(part.isidentifier() for part in name.split(".")) and _exists(name)
    return Job(module=name, settings=f"{name}.settings") if runnable else None


def _unknown(role: dict[str, Any]) -> Fault:
    name = role["job"]
    if name in JOBS:
        return Fault(path=_job_path(role), fact=f"The job {name!r} is not part of this installation.")
    return Fault(path=_job_path(role), fact=f"There is no job {name!r}.", way_out=nearest(name, JOBS, "jobs"))


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False  # a package above it does not exist


def _settings_module(job: Job) -> ModuleType | None:
    """Return the module that describes the job's settings; a module from elsewhere may have none."""
    return importlib.import_module(job.settings) if _exists(job.settings) else None


def _kind(role: dict[str, Any]) -> list[Fault]:
    job = JOBS.get(role["job"])
    if job is None or job.kind == role["kind"]:
        return []
    if job.kind == "service":
        fact = f"A {role['job']!r} serves until nobody needs it, but no role needs {role['name']!r}."
        way_out = f"Add {role['name']!r} to the 'needs' of the roles that use it."
    else:
        fact = f"A {role['job']!r} ends by itself and serves nobody, but a role needs {role['name']!r}."
        way_out = f"Put {role['name']!r} under 'after' instead of 'needs'."
    return [Fault(path=_job_path(role), fact=fact, way_out=way_out)]


def _nodes(role: dict[str, Any]) -> list[Fault]:
    job, nodes = JOBS.get(role["job"]), role.get("nodes", 1)
    if job is None or job.spreads or nodes == 1:
        return []
    more = " More copies of it are 'replicas'." if job.kind == "service" else ""
    fact = f"A {role['job']!r} runs on one node, not on {nodes}.{more}"
    return [Fault(path=("roles", role["name"], "nodes"), fact=fact, way_out="Set nodes: 1.")]


def _settings(module: ModuleType, role: dict[str, Any], names: list[str]) -> Findings:
    values, path = role["settings"], ("roles", role["name"], "with")
    settings_type: type[Section] = module.Settings
    try:
        settings = settings_type.model_validate(values)
    except ValidationError as error:
        # The value behind a placeholder is known only when its role has published it.
        unknown = [detail["loc"] for detail in error.errors() if _is_placeholder(detail["input"])]
        if len(unknown) == error.error_count():
            return Findings()
        found = faults(error, settings_type, values)
        return Findings(
            problems=[_below(path, fault) for fault in found if not _is_placeholder(_at(values, fault.path))]
        )
    return Findings(
        problems=[_told(path, item) for item in _hook(module, "problems", settings)]
        + [_below(path, fault) for fault in _strangers(module, settings, role, names)],
        missing=[_told(path, item) for item in _hook(module, "missing", settings)],
    )


def _strangers(module: ModuleType, settings: Section, role: dict[str, Any], names: list[str]) -> list[Fault]:
    """Return a fault for every role that the job would ask in vain: nothing makes sure that it runs meanwhile."""
    hook = getattr(module, "services", None)
    if hook is None or "needs" not in role:
        return []
    return [
        Fault(
            path=tuple(place.split(".")),
            fact=f"{role['name']!r} asks the role {name!r}, but does not need it.",
            way_out=f"Add {name!r} to its 'needs'.",
        )
        if name in names
        else Fault(
            path=tuple(place.split(".")),
            fact=f"There is no role {name!r}.",
            way_out=nearest(name, set(names) - {role["name"]}, "roles"),
        )
        for place, name in hook(settings).items()
        if name not in role["needs"]
    ]


def _hook(module: ModuleType, name: str, settings: Section) -> list[Problem | str]:
    hook = getattr(module, name, None)
    return list(hook(settings)) if hook is not None else []


def _told(path: tuple[str | int, ...], item: Problem | str) -> Fault:
    if isinstance(item, str):
        place, colon, fact = item.partition(": ")
        item = Problem(place=place, fact=fact) if colon and " " not in place else Problem(place="", fact=item)
    steps = item.place.split(".") if item.place else []
    return Fault(path=(*path, *steps), fact=item.fact, way_out=item.way_out)


def _below(path: tuple[str | int, ...], fault: Fault) -> Fault:
    return dataclasses.replace(fault, path=(*path, *fault.path))


def _at(values: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        try:
            values = values[step]
        except (KeyError, IndexError, TypeError):
            return None  # the fault is about something that is not there
    return values


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, str) and PLACEHOLDER.search(value) is not None


def _job_path(role: dict[str, Any]) -> tuple[str, ...]:
    return ("roles", role["name"], "job")


def _shown(fault: Fault) -> dict[str, Any]:
    place = ".".join(map(str, fault.path))
    return {"path": list(fault.path), "place": place, "fact": fault.fact, "way_out": fault.way_out}


def main(arguments: list[str]) -> int:
    """Check the plan named by the one argument, ``-`` for the standard input, and print what was found."""
    if len(arguments) != 1:
        print("usage: python -m jobs.check PLAN.json|-", file=sys.stderr)
        return 2
    text = sys.stdin.read() if arguments[0] == "-" else Path(arguments[0]).read_text(encoding="utf-8")
    print(answer(json.loads(text)["roles"]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
