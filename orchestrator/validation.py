"""A recipe looked at by all who know of it: by its own rules, by the jobs that it names, and by the site it is for.

The jobs are another process (``inspection``) and need as long as it takes to import what knows of sites. So that is
imported when they have been asked, and not at the top of this file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import inspection, recipe
from orchestrator.errors import InputError, NotFound, all_at_once, nearest

if TYPE_CHECKING:
    from orchestrator.plan import Role
    from orchestrator.profile import Profile
    from orchestrator.submission import Checked


def check(path: Path, overrides: Sequence[str], cluster: str | None, checkout: Path) -> Checked:
    """Return the recipe in ``path``, checked together with the jobs it names.

    Args:
        path: The recipe.
        overrides: Changes to it.
        cluster: A profile's name; the default one if None.
        checkout: Where ``cluster/`` and ``jobs/`` lie.

    Raises:
        NotFound: There is no such file.
        InputError: The recipe, an override or the profile has problems; all are listed.
    """
    if not os.path.isfile(path):
        raise _no_recipe(path)
    source = recipe.read(path, overrides)
    with inspection.Inquiry(source.data, checkout) as inquiry:
        from orchestrator import placement, submission

        found, problems = recipe.check(source)
        site = _site(cluster, checkout / "cluster")
        never, missing = inquiry.faults()
    problems += [source.problem(fault) for fault in never]
    if found is None or problems:
        raise all_at_once(str(path), sorted(problems, key=submission.by_line))
    if isinstance(site, InputError):
        raise site
    chosen, profile = site
    layout, unplaceable = placement.lay(found, profile, chosen)
    if layout is None:
        raise all_at_once(str(path), [source.problem(fault) for fault in unplaceable])
    others = {role.name for role in layout.roles if profile.slurm.interpreter or _names_an_interpreter(role)}
    return submission.Checked(
        source=source,
        recipe=found,
        profile=profile,
        cluster=chosen,
        missing=[source.problem(fault) for fault in missing if fault.path[1] not in others],
        unseen=[source.problem(fault) for fault in missing if fault.path[1] in others],
    )


def _site(cluster: str | None, folder: Path) -> tuple[str, Profile] | InputError:
    """Return the profile and its name, or what is wrong with it; what is wrong with the recipe goes before that."""
    from orchestrator import profile

    try:
        chosen = cluster or profile.default(folder)
        return chosen, profile.load(chosen, folder)
    except InputError as error:
        return error


def _names_an_interpreter(role: Role) -> bool:
    return bool({"python", "virtual_environment", "container"} & role.options.keys())


def _no_recipe(path: Path) -> NotFound:
    folder = path.parent if os.path.isdir(path.parent) else Path("recipes")
    known = [str(found) for found in sorted(folder.glob("*.yaml"))]
    return NotFound(f"{path}: there is no such recipe. {nearest(str(path), known, 'recipes')}".rstrip())
