"""From a checked recipe to a run's folder: first whether it can run there, then one rename that makes the run exist.

The folder is written under a hidden name and renamed into place, so a run exists whole or not at
all, and of two submissions of one name exactly one wins, on any filesystem whose rename is atomic.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from orchestrator import __version__, fit, placement, plan, profile, recipe, render, strict_yaml
from orchestrator.errors import ConflictError, InputError, Problem, all_at_once
from orchestrator.files import private_folder, sync_folder, write_text
from orchestrator.ledger import Ledger
from orchestrator.plan import Plan
from orchestrator.run_directory import RunDirectory, named, runs_root

MAX_NAMESAKES = 1000


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A recipe whose every name and number has been looked at, by ``validation``.

    Attributes:
        source: What was written.
        recipe: What it means.
        profile: Where it is to run.
        cluster: The profile's name.
        missing: What this installation lacks to run it.
        unseen: What this installation lacks too, but for roles that run another one on their nodes.
    """

    source: recipe.Source
    recipe: recipe.Recipe
    profile: profile.Profile
    cluster: str
    missing: list[Problem] = field(default_factory=list)
    unseen: list[Problem] = field(default_factory=list)

    def plan(self, run_name: str | None = None) -> Plan:
        """Return the plan, for a run of that name or of the recipe's."""
        return plan.build(
            self.recipe,
            self.profile,
            cluster=self.cluster,
            source=str(self.source.path),
            sha256=self.source.sha256,
            run_name=run_name,
        )


def lacking(checked: Checked) -> list[Problem]:
    """Return why the recipe cannot run where it is to run; empty if it can.

    Nodes that run the interpreter of this machine see its file system, so what is missing here is missing there,
    and would be found out after hours in the queue. Of their size only the profile knows.
    """
    if checked.profile.executor == "slurm":
        too_much = [checked.source.problem(fault) for fault in fit.site_faults(checked.plan(), checked.profile)]
        return sorted([*too_much, *checked.missing], key=by_line)
    from orchestrator import machine

    here = machine.here()
    node = checked.profile.node
    known = machine.Machine(
        cpus=here.cpus if node.cpus is None else node.cpus,
        memory_gb=here.memory_gb if node.memory_gb is None else node.memory_gb,
        gpus=here.gpus if node.gpus is None else node.gpus,
    )
    resources = [checked.source.problem(fault) for fault in fit.faults(checked.plan(), known)]
    return sorted([*resources, *checked.missing], key=by_line)


def warnings(checked: Checked) -> list[str]:
    """Return what may be meant and may be a mistake, a sentence each.

    A role with an interpreter or a container of its own may find there what is missing here.
    """
    unseen = [f"on this machine, perhaps not on the nodes: {problem}" for problem in checked.unseen]
    return [*unseen, *_resized(checked), *_one_core(checked)]


def _one_core(checked: Checked) -> Iterator[str]:
    """Yield the nodes of which nobody says how many cores a role gets: Slurm's own default is a single one."""
    if checked.profile.executor != "slurm":
        return
    for group in checked.plan().groups:
        if group.cpus_per_node is None and not group.options.get("exclusive"):
            yield (
                f"cluster/{checked.cluster}.yaml: the nodes of {group.name} ask for no number of CPU cores, and where "
                f"the site has no default Slurm gives one. Set roles.{group.name}.cpus_per_node or slurm.exclusive."
            )


def _resized(checked: Checked) -> Iterator[str]:
    """Yield where a size written in the recipe gives way to the profile's."""
    for name, role in checked.recipe.roles.items():
        site = checked.profile.roles.get(name)
        for key in ("nodes", *placement.SIZES) if site is not None else ():
            wanted, given = getattr(role, key), getattr(site, key)
            if given is not None and key in role.model_fields_set and wanted != given:
                place = f"cluster/{checked.cluster}.yaml: roles.{name}.{key}"
                yield f"{place}: is {given} on this site, and goes before the recipe's {wanted}."


def refuse_if_lacking(checked: Checked) -> None:
    """Raise if the recipe cannot run where it is to run, naming the recipe made for smaller machines.

    Raises:
        InputError: Something is missing; everything missing is listed.
    """
    problems = lacking(checked)
    if not problems:
        return
    where = where_name(checked)
    error = all_at_once(f"{checked.source.path}: {where} cannot run it", problems)
    smaller = tiny_sibling(checked.source.path) if checked.profile.executor == "local" else None
    hint = f"\n  {smaller} is the same run for a machine like this one." if smaller else ""
    raise InputError(f"{error}{hint}")


def where_name(checked: Checked) -> str:
    """Return what to call the place where the recipe is to run."""
    return "this machine" if checked.profile.executor == "local" else f"the cluster {checked.cluster!r}"


def tiny_sibling(path: Path) -> Path | None:
    """Return ``<name>-tiny.yaml`` beside the recipe, if there is one."""
    sibling = path.with_name(f"{path.stem}-tiny.yaml")
    return sibling if sibling.is_file() else None


def create(checked: Checked, checkout: Path, *, run_name: str | None, force_new: bool) -> RunDirectory:
    """Make the run's folder with everything that starting it takes, and record that it was submitted.

    Args:
        checked: What to run.
        checkout: The working directory of its roles.
        run_name: The run's name; the recipe's if None.
        force_new: Take the next free of ``name``, ``name-2``, ``name-3`` instead of refusing.

    Raises:
        ConflictError: There is a run of that name.
        InputError: The name is not a run's name, or the folder cannot be written.
    """
    name = run_name or checked.recipe.name
    for candidate in _candidates(name) if force_new else [name]:
        run = named(candidate)
        if run.path.exists():
            continue
        if _made(run, checked, checkout):
            return run
    raise conflict(named(name), checked.source.sha256)


def site(run: RunDirectory, checkout: Path) -> render.Site:
    """Return where the run happens, with this interpreter."""
    return render.Site(checkout=checkout, python=Path(sys.executable), run_dir=run.path)


def conflict(run: RunDirectory, sha256: str) -> ConflictError:
    """Return the error for a run that exists already, with the ways out that fit its state."""
    from orchestrator import control

    ways = f"start another with --force-new or --run-name NAME, or look at it: python -m orchestrator status {run.name}"
    if not run.plan.exists():
        return ConflictError(
            f"run: {run.path} is in the way and is not a run. Move it away, or {ways.partition(',')[0]}."
        )
    now = control.state(run)
    if now.state in ("SUBMITTED", "QUEUED", "RUNNING"):
        return ConflictError(f"run: {run.name} is {now.state} already. Follow it ('logs -f'), or {ways}.")
    if now.state == "SUCCEEDED":
        return ConflictError(f"run: {run.name} has already SUCCEEDED. To run again, {ways}.")
    if plan.load(run.plan).recipe_sha256 != sha256:
        return ConflictError(f"run: {run.name} is {now.state}, and was made from another recipe. So {ways}.")
    resume = f"Continue it: python -m orchestrator resume {run.name}"
    return ConflictError(f"run: {run.name} is {now.state}. {resume}. Or {ways}.")


def _candidates(name: str) -> Iterator[str]:
    yield name
    for number in range(2, MAX_NAMESAKES):
        yield f"{name}-{number}"


def _made(run: RunDirectory, checked: Checked, checkout: Path) -> bool:
    """Write the folder and rename it into place; False if another submission was faster."""
    root = runs_root()
    try:
        draft = RunDirectory(private_folder(root) / f".{run.name}.{uuid4().hex[:8]}.tmp")
        _write(draft, run, checked, checkout)
    except OSError as error:
        raise InputError(f"{error.filename or root}: the run's folder cannot be made: {error.strerror}.") from None
    try:
        os.rename(draft.path, run.path)
    except OSError:  # the name is taken by a folder with something in it, or by a file
        shutil.rmtree(draft.path)
        if run.path.exists():
            return False
        raise
    sync_folder(root)
    return True


def _write(draft: RunDirectory, run: RunDirectory, checked: Checked, checkout: Path) -> None:
    the_plan = checked.plan(run.name)
    draft.create()
    write_text(draft.recipe, resolved(checked.source))
    write_text(draft.plan, plan.to_json(the_plan))
    for name, script in render.scripts(the_plan, site(run, checkout)).items():
        write_text(draft.path / name, script)
    Ledger(draft.ledger, 0).append(
        "submitted",
        recipe=the_plan.recipe,
        sha256=the_plan.recipe_sha256,
        cluster=the_plan.cluster,
        version=__version__,
    )


def resolved(source: recipe.Source) -> str:
    """Return the recipe in one piece, a comment above it saying what it was made from."""
    origin = [f"# from {str(file)!r}" for file in source.files] + [f"# override {text!r}" for text in source.overrides]
    return "\n".join([*origin, strict_yaml.dump(source.data)])


def by_line(problem: Problem) -> tuple[str, int]:
    """Return what sorts problems by file and line, as a reader goes through them."""
    file, _, rest = problem.place.partition(":")
    number = rest.partition(":")[0]
    return file, int(number) if number.isdigit() else 0
