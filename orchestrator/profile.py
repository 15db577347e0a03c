"""The cluster profile: where a recipe runs. ``cluster/<name>.yaml``, one file for each site.

A profile knows partitions, limits and modules of its site, and nothing of what is run there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from orchestrator import rules, strict_yaml
from orchestrator.errors import InputError, all_at_once, nearest
from orchestrator.recipe import Source
from orchestrator.section import Fault, faults
from orchestrator.slurm_options import SiteOptions, SlurmOptions
from orchestrator.values import Environment, Span, Strict, seconds

__all__ = ["Profile", "Resources", "RoleOnSite", "SiteOptions", "SlurmOptions", "default", "load", "names"]

NOT_A_SITE = {"local", "sandbox"}
"""Profiles that are there on every machine and belong to none."""
EXAMPLE = "example-"
"""Names of profiles that are meant to be copied begin like this."""


class Resources(Strict):
    """What one node of the site has. Left out: asked of the machine itself, when a run is submitted."""

    cpus: int | None = Field(None, ge=1)
    """CPU cores."""
    memory_gb: float | None = Field(None, gt=0)
    """Memory."""
    gpus: int | None = Field(None, ge=0)
    """GPUs."""


class RoleOnSite(SiteOptions):
    """What this site gives a role of that name; it goes before what the recipe says."""

    nodes: int | None = Field(None, ge=1, le=10_000)
    """Nodes of one replica."""
    gpus_per_node: int | None = Field(None, ge=0, le=64)
    """GPUs on each node."""
    cpus_per_node: int | None = Field(None, ge=1, le=4096)
    """CPU cores on each node."""
    memory_gb: float | None = Field(None, gt=0, le=65_536)
    """Memory on each node."""
    time_limit: Span | None = None
    """The longest one job of this role may last, where it has a job of its own (``placement: pair``)."""

    @property
    def time_limit_s(self) -> int | None:
        return None if self.time_limit is None else seconds(self.time_limit)


class Profile(Strict):
    """Where to run."""

    executor: Literal["local", "slurm"]
    """What starts the supervisor: this machine (``local``) or Slurm."""
    node: Resources = Field(default_factory=Resources)
    """One node of the site. On a cluster: the most that a role may ask of a node."""
    environment: Environment = Field(default_factory=dict)
    """Added to the environment of the supervisor and so of every role. Not for secrets."""
    hetjobs: bool = True
    """Whether the site runs heterogeneous jobs."""
    signal_s: int = Field(120, ge=1, le=65_535)
    """Slurm says so long before the time limit that it comes; the run then saves and ends."""
    crash_pause_s: float = Field(60.0, ge=0, le=86_400)
    """How long the next job waits after two crashes in a row without progress; doubled with each further one."""
    time_limit: Span | None = None
    """The longest job that the site allows."""
    slurm: SiteOptions = Field(default_factory=SiteOptions)
    """For all nodes, unless ``roles`` says otherwise."""
    roles: dict[str, RoleOnSite] = Field(default_factory=dict)
    """By a role's name: its partition and so on, and its size on this site."""

    @model_validator(mode="after")
    def _slurm_alone_takes_options(self) -> Profile:
        told = sorted(self.model_fields_set & {"hetjobs", "signal_s", "time_limit", "slurm", "roles"})
        if self.executor == "local" and told:
            raise ValueError(f"{', '.join(told)}: only Slurm can use this. Write executor: slurm, or leave it out.")
        return self

    @property
    def time_limit_s(self) -> int | None:
        return None if self.time_limit is None else seconds(self.time_limit)


def load(name: str, folder: Path) -> Profile:
    """Return the profile ``folder/<name>.yaml``.

    Raises:
        InputError: There is no such profile, or it has problems; all are listed.
    """
    path = folder / f"{name}.yaml"
    known = names(folder)
    if name not in known:
        raise InputError(f"--cluster: there is no profile {path}. {nearest(name, known, 'profiles')}".rstrip())
    tree = strict_yaml.load(path)
    source = Source(path=path, files=(path,), overrides=(), tree=tree)
    found = list(_environments(source.data))
    try:
        profile = Profile.model_validate(source.data)
    except ValidationError as error:
        found = [*faults(error, Profile, source.data), *found]
    if found:
        raise all_at_once(str(path), [source.problem(fault) for fault in found])
    return profile


def _environments(data: Any) -> Iterator[Fault]:
    """Yield what is wrong with the environments of a profile, checked or not."""
    sections: list[tuple[tuple[str, ...], Any]] = [((), data)]
    if isinstance(data, dict):
        roles = data.get("roles")
        sections.append((("slurm",), data.get("slurm")))
        sections += [(("roles", str(name)), role) for name, role in (roles.items() if isinstance(roles, dict) else ())]
    for path, section in sections:
        if isinstance(section, dict):
            yield from rules.environment((*path, "environment"), section.get("environment"))


def names(folder: Path) -> list[str]:
    """Return the names of all profiles in ``folder``."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def default(folder: Path) -> str:
    """Return the profile to use when none is named: ``$ORCH_CLUSTER``, or ``local`` where there is no Slurm.

    Examples and the sandbox are no sites, so a machine with Slurm and no profile of its own is ``local`` too.

    Raises:
        InputError: There is a Slurm and more than one profile for it; we do not guess between sites.
    """
    chosen = os.environ.get("ORCH_CLUSTER")
    if chosen:
        return chosen
    sites = [name for name in names(folder) if name not in NOT_A_SITE and not name.startswith(EXAMPLE)]
    if shutil.which("sbatch") is None or not sites:
        return "local"
    if len(sites) == 1:
        return sites[0]
    raise InputError(f"--cluster: this machine has Slurm; say which site it is. Profiles: {', '.join(sites)}, local.")
