"""The cluster profile: where a recipe runs. ``cluster/<name>.yaml``, one file for each site.

A profile knows partitions, limits and modules of its site, and nothing of what is run there.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from orchestrator import strict_yaml
from orchestrator.errors import InputError, all_at_once, nearest
from orchestrator.recipe import Environment, Source, Strict
from orchestrator.section import faults


class Resources(Strict):
    """What one node of the site has. Left out: asked of the machine itself, when a run is submitted."""

    cpus: int | None = Field(None, ge=1)
    """CPU cores."""
    memory_gb: float | None = Field(None, gt=0)
    """Memory."""
    gpus: int | None = Field(None, ge=0)
    """GPUs."""


class Profile(Strict):
    """Where to run."""

    executor: Literal["local", "slurm"]
    """What starts the supervisor: this machine (``local``) or Slurm."""
    node: Resources = Field(default_factory=Resources)
    """One node of the site."""
    environment: Environment = Field(default_factory=dict)
    """Added to the environment of the supervisor and so of every role. Not for secrets."""


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
    try:
        return Profile.model_validate(strict_yaml.plain(tree))
    except ValidationError as error:
        source = Source(path=path, files=(path,), overrides=(), tree=tree)
        found = faults(error, Profile, source.data)
        raise all_at_once(str(path), [source.problem(fault) for fault in found]) from None


def names(folder: Path) -> list[str]:
    """Return the names of all profiles in ``folder``."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def default(folder: Path) -> str:
    """Return the profile to use when none is named: ``$ORCH_CLUSTER``, or ``local`` where there is no Slurm.

    Raises:
        InputError: There is a Slurm and more than one profile for it, or none; we do not guess between sites.
    """
    chosen = os.environ.get("ORCH_CLUSTER")
    if chosen:
        return chosen
    others = [name for name in names(folder) if name != "local"]
    if shutil.which("sbatch") is None or not others:
        return "local"
    if len(others) == 1:
        return others[0]
    raise InputError(f"--cluster: this machine has Slurm; say which site it is. Profiles: {', '.join(others)}, local.")
