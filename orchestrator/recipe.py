"""The recipe: which roles a run has, what each needs, and the settings of their jobs.

A recipe names no partition, no account and no path of a cluster; those live in ``cluster/``.
What stands under ``with`` belongs to the role's job and is checked by it (``jobs.check``).
Everything here is immutable, and a key we do not know is an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationError

from orchestrator import overrides, rules, strict_yaml
from orchestrator.errors import InputError, Problem, all_at_once
from orchestrator.section import Fault, faults
from orchestrator.slurm_options import SlurmOptions
from orchestrator.strict_yaml import KeyPath, Node
from orchestrator.values import Environment, Span, Strict, listed, seconds

MAX_EXTENDS = 8
# Neither a password nor a query: both would end in plan.json and in logs.
_BASE_URL = re.compile(r"https?://[A-Za-z0-9_.:\[\]-]+(/[A-Za-z0-9_.~%/-]*)?/v1")


def _limit(value: object) -> object:
    if value in ("unlimited", None):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a number of restarts. Write 0 or more, or 'unlimited'.")
    return value


def _base_url(value: str) -> str:
    if not _BASE_URL.fullmatch(value):
        raise ValueError(f"{value!r} is not the base URL of an OpenAI API. Write 'https://host:port/v1'.")
    return value


RunName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=56)]
RoleName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=40)]
Names = Annotated[tuple[RoleName, ...], BeforeValidator(listed, json_schema_input_type=str | list[str])]
Url = Annotated[str, AfterValidator(_base_url)]
Limit = Annotated[int | None, BeforeValidator(_limit, json_schema_input_type=int | Literal["unlimited"])]


class OnFailure(Strict):
    """What the supervisor does when a role fails inside the allocation."""

    restart: int = Field(3, ge=0)
    """How often the role is started again."""
    backoff_s: float = Field(2.0, ge=0, le=3600)
    """Seconds before the second restart, the first being immediate; doubled each time, up to a minute."""


class Role(Strict):
    """One part of the run: a program, what it runs on and what it waits for."""

    job: str = ""
    """What to run: a package of ``jobs/`` (``judge``, ``grpo``, ``command``), ``eval``, or ``package.module``."""
    url: Url | None = None
    """In place of a job: a service that runs elsewhere, ``https://host:port/v1``. Of ``with``, only ``model`` and
    ``api_key_file`` are read then, and no nodes are asked for."""
    nodes: int = Field(1, ge=1, le=10_000)
    """Nodes of one replica."""
    gpus_per_node: int = Field(0, ge=0, le=64)
    """GPUs on each node."""
    cpus_per_node: int | None = Field(None, ge=1, le=4096)
    """CPU cores on each node. Left out: what the machine has."""
    memory_gb: float | None = Field(None, gt=0, le=65_536)
    """Memory on each node. Left out: what the machine has."""
    replicas: int = Field(1, ge=1, le=1024)
    """Copies of a service. The gateway spreads requests over them."""
    needs: Names = ()
    """Services that must answer before this role starts; they outlive it."""
    after: Names = ()
    """Roles that must have finished before this role starts."""
    on_failure: OnFailure = Field(default_factory=OnFailure)
    """Restarts inside the allocation."""
    start_timeout_s: float = Field(600.0, gt=0, le=86_400)
    """A service that has not answered by then counts as failed."""
    hung_after_s: float = Field(1800.0, gt=0, le=86_400)
    """A role that says what it does, and then says nothing for so long, hangs and counts as failed."""
    drain_s: float = Field(60.0, ge=0, le=86_400)
    """Seconds to save and end after being asked to stop."""
    environment: Environment = Field(default_factory=dict)
    """Added to the role's environment. Not for secrets: name a file that holds them."""
    slurm: SlurmOptions = Field(default_factory=SlurmOptions)
    """For this run only, mostly from the command line: ``judge.slurm.partition=big``. Goes before the profile."""
    settings: dict[str, Any] = Field(default_factory=dict, alias="with")
    """The job's own settings. ``{role.key}`` stands for what another role publishes."""


class Restarts(Strict):
    """How often the whole run may be started again, by cause."""

    preempted: Limit = None
    """After the scheduler took the nodes away. Costs no other budget."""
    time_limit: Limit = None
    """After the time limit of one allocation."""
    node_failure: Limit = 10
    """After a node was lost."""
    crash: Limit = 3
    """After a role failed more often than its ``on_failure`` allows."""
    without_progress: int = Field(3, ge=1)
    """Starts in a row without a newly committed step; then the run stops, whatever the cause but preemption."""


class Recipe(Strict):
    """What to run: roles, their order and their settings."""

    extends: str | None = None
    """Another recipe, relative to this file. Mappings are merged, all else is replaced, ``null`` takes out."""
    name: RunName
    """The run's name, unless ``--run-name`` says otherwise."""
    roles: dict[RoleName, Role] = Field(min_length=1)
    """The parts of the run, by name."""
    placement: Literal["auto", "slice", "hetjob", "pair", "external"] = "auto"
    """How roles are laid on nodes of a cluster. ``auto`` chooses, and the plan says why. ``slice``: one plain job,
    divided by node; ``hetjob``: one job of several kinds of nodes; ``pair``: services in jobs of their own;
    ``external``: every service has a ``url``."""
    time_limit: Span = "24:00:00"
    """The longest one allocation may last: ``24:00:00``, ``2-00:00:00``, ``90m``."""
    restarts: Restarts = Field(default_factory=Restarts)
    """Limits on starting the whole run again."""

    @property
    def time_limit_s(self) -> int:
        return seconds(self.time_limit)


TOP_KEYS = set(Recipe.model_fields)
ROLE_KEYS = {field.alias or name for name, field in Role.model_fields.items()}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A recipe as written: ``extends`` followed, overrides put in, nothing checked but the syntax.

    Attributes:
        path: The recipe's file.
        files: All files read, the recipe's first.
        overrides: As given.
        tree: Every value and the line, or the override, that set it.
    """

    path: Path
    files: tuple[Path, ...]
    overrides: tuple[str, ...]
    tree: Node

    @property
    def data(self) -> Any:
        return strict_yaml.plain(self.tree)

    @property
    def sha256(self) -> str:
        """Hash of what the recipe says; comments, order of keys and division into files do not count."""
        return hashlib.sha256(json.dumps(self.data, sort_keys=True).encode()).hexdigest()

    def problem(self, fault: Fault) -> Problem:
        """Return the fault with the file and line it was written in."""
        place = strict_yaml.place_of(self.tree, fault.path)
        return Problem(
            place=": ".join(filter(None, [place, dotted(fault.path)])), fact=fault.fact, way_out=fault.way_out
        )


def dotted(path: KeyPath) -> str:
    """Return the path as an override would write it.

    >>> dotted(("roles", "eval", "with", "v1.5"))
    'roles.eval.with."v1.5"'
    """
    return ".".join(f'"{step}"' if "." in str(step) else str(step) for step in path)


def read(path: Path, given: Sequence[str] = ()) -> Source:
    """Return the recipe in ``path`` with the overrides ``given``.

    Raises:
        InputError: A file is missing or not YAML, ``extends`` goes in a circle, or an override does not fit.
    """
    tree, files = _extended(path, ())
    tree = overrides.apply(tree, given, top=TOP_KEYS, role=ROLE_KEYS)
    return Source(path=path, files=files, overrides=tuple(given), tree=tree)


def check(source: Source) -> tuple[Recipe | None, list[Problem]]:
    """Return the recipe, or None, and every problem that it has."""
    data = source.data
    found = rules.check(data, reserved=TOP_KEYS)
    recipe = None
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        found = [*faults(error, Recipe, data), *found]
    return (None if found else recipe), [source.problem(fault) for fault in found]


def load(path: Path, given: Sequence[str] = ()) -> Recipe:
    """Return the recipe in ``path``.

    Raises:
        InputError: The recipe has problems; all are listed. The jobs' own settings are not looked at.
    """
    source = read(path, given)
    recipe, problems = check(source)
    if recipe is None:
        raise all_at_once(str(path), problems)
    return recipe


def _extended(path: Path, seen: tuple[Path, ...]) -> tuple[Node, tuple[Path, ...]]:
    tree = strict_yaml.load(path)
    if not isinstance(tree.value, dict):
        raise InputError(f"{tree.place}: a recipe is a mapping of keys to values. Begin with 'name: ...'.")
    base = tree.value.get("extends")
    if base is None or base.value is None:
        return tree, (path,)
    if not isinstance(base.value, str):
        raise InputError(f"{base.place}: extends: must be the path of one recipe, got {strict_yaml.plain(base)!r}.")
    parent = path.parent / base.value
    trail = (*seen, _real(path))
    if _real(parent) in trail or len(trail) > MAX_EXTENDS:
        raise InputError(f"{base.place}: extends: {base.value!r} leads back to {path}, or further than {MAX_EXTENDS}.")
    if not os.path.isfile(parent):
        raise InputError(f"{base.place}: extends: there is no recipe {parent}. The path is relative to {path.parent}/.")
    below, files = _extended(parent, trail)
    own = Node({key: child for key, child in tree.value.items() if key != "extends"}, tree.place)
    return merge(below, own), (path, *files)


def _real(path: Path) -> Path:
    # os.path and not pathlib: a name too long for a file is a name of no file, and no error of its own.
    return Path(os.path.realpath(path))


def merge(below: Node, above: Node) -> Node:
    """Return ``below`` changed by ``above``: mappings are merged, all else replaced, a null takes the key out."""
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    merged = dict(below.value)
    for key, child in above.value.items():
        if child.value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged[key], child) if key in merged else child
    return Node(merged, above.place)
