"""The proof: one recipe run twice, undisturbed and killed again and again, and compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import ledger, plan, submission
from orchestrator.errors import InputError, RunFailed, nearest
from orchestrator.files import private_folder, write_json
from orchestrator.plan import Role
from orchestrator.recipe import Recipe
from orchestrator.run_directory import RunDirectory
from orchestrator.submission import Checked
from orchestrator.verify_resume import aftermath, certificate, comparison, disturbance, kills, promise
from orchestrator.verify_resume.certificate import Evidence
from orchestrator.verify_resume.disturbance import Start
from orchestrator.verify_resume.kills import Kill
from orchestrator.verify_resume.promise import value

TRAINER = "grpo"
FILE = "certificate.json"
SAVE_EVERY = 10
"""The job's own default, for recipes that do not name it."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be proved.

    Attributes:
        role: The role that trains; empty for the only one whose job is ``grpo``.
        kills: How many.
        seed: Of the kills.
        same_verdicts: Give the killed run the other's verdicts, so that a judge that does not answer the same
            twice makes no difference.
    """

    role: str = ""
    kills: int = 3
    seed: int = 1
    same_verdicts: bool = False


@dataclass(frozen=True, kw_only=True)
class Submits:
    """How recipes are read and runs are started: as by ``submit``.

    Attributes:
        checked: Returns the recipe, with further overrides, checked.
        start: Starts the next attempt of a run.
        checkout: Working directory of the roles.
        tell: Says something to the person who waits.
    """

    checked: Callable[[Sequence[str]], Checked]
    start: Start
    checkout: Path
    tell: Callable[[str], None]


def prove(order: Order, submits: Submits) -> tuple[dict[str, Any], Path]:
    """Run the recipe twice, compare, write the certificate into the killed run's folder and return both.

    Raises:
        InputError: The recipe cannot run here, or has no role to be proved.
        RunFailed: The undisturbed run did not succeed, so there is nothing to compare with.
        Cancelled: A person stopped a run.
    """
    whole = submits.checked(())
    role = trainer(whole.recipe, order.role)
    added = changes(whole, role, order.kills)
    checked = submits.checked(added)
    _refuse_slurm(checked)
    submission.refuse_if_lacking(checked)
    steps = value(checked.recipe.roles[role].settings, "steps", default=None)
    if steps is not None:
        schedule(order, checked.plan().role(role), steps)  # Told now and not after the first run.
    for text in added:
        submits.tell(f"note: override {text}")
    straight = _submitted(checked, submits, "straight")
    submits.start(straight)
    _require_success(straight, submits)
    total = kills.last_step(straight.metrics)
    killed = _submitted(checked, submits, "killed")
    trained = plan.load(killed.plan).role(role)
    planned = schedule(order, trained, total)
    if order.same_verdicts:
        hand_on_verdicts(straight, killed, role)
    submits.start(killed)
    blows = disturbance.endure(killed, submits.start, role, planned, total)
    promised = promise.of(trained)
    checks = comparison.compare(straight, killed, role=role, total=total, promise=promised)
    if trained.job == TRAINER and value(trained.settings, "journal", default=True):
        checks.append(aftermath.collected_once(blows, ledger.read(killed.ledger)))
    evidence = Evidence(
        plan=plan.load(killed.plan),
        overrides=checked.source.overrides,
        role=role,
        seed=order.seed,
        straight=straight,
        killed=killed,
        blows=blows,
        promise=promised,
        checks=checks,
        same_verdicts=order.same_verdicts,
    )
    written = certificate.build(evidence)
    write_json(killed.path / FILE, written)
    return written, killed.path / FILE


def trainer(recipe: Recipe, wanted: str) -> str:
    """Return the role that is to be proved.

    Raises:
        InputError: There is none of that name; or, if none is named, not exactly one that trains.
    """
    if wanted:
        if wanted not in recipe.roles:
            raise InputError(f"--role: the recipe has no role {wanted!r}. {nearest(wanted, recipe.roles, 'roles')}")
        return wanted
    found = [name for name, role in recipe.roles.items() if role.job == TRAINER]
    if len(found) != 1:
        names = ", ".join(found) or "none"
        raise InputError(f"--role: the recipe's roles of the job {TRAINER!r} are: {names}. Name the one to prove.")
    return found[0]


def needed(recipe: Recipe, role: str) -> set[str]:
    """Return the role and everything that has to run before it or beside it."""
    found: set[str] = set()
    waiting = [role]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [*recipe.roles[name].needs, *recipe.roles[name].after]
    return found


def changes(checked: Checked, role: str, count: int) -> tuple[str, ...]:
    """Return the overrides under which the recipe is proved; none changes what a step computes.

    Roles that training does not need are left out. Our kills are to cost none of the recipe's own restarts. And
    what is compared has to be written.
    """
    recipe = checked.recipe
    unneeded = [name for name in recipe.roles if name not in needed(recipe, role)]
    mine, limits = recipe.roles[role], recipe.restarts
    found = [f"roles.{name}=null" for name in unneeded]
    found.append(f"roles.{role}.on_failure.restart={mine.on_failure.restart + count}")
    found.append(f"restarts.without_progress={limits.without_progress + count}")
    if not value(mine.settings, "log_rollouts", default=True):
        found.append(f"roles.{role}.with.log_rollouts=true")
    return tuple(found)


def schedule(order: Order, role: Role, total: int) -> tuple[Kill, ...]:
    """Return the kills for a run of ``total`` steps.

    Raises:
        InputError: There are not more steps than kills.
    """
    if order.kills >= total:
        raise InputError(
            f"--kills: {order.kills} kill(s) need more than {order.kills} steps, and the run has {total}. "
            f"Lower --kills, or raise {role.name}.steps."
        )
    return kills.plan(
        seed=order.seed,
        count=order.kills,
        total=total,
        save_every=value(role.settings, "checkpoint", "every_steps", default=SAVE_EVERY),
        workers=bool(value(role.settings, "ray", default=True)),
    )


def hand_on_verdicts(straight: RunDirectory, killed: RunDirectory, role: str) -> None:
    """Give a run that has not begun what the judge said to the other."""
    known = straight.role(role) / "verdicts.jsonl"
    if known.exists():
        shutil.copy(known, private_folder(killed.role(role)))


def _submitted(checked: Checked, submits: Submits, suffix: str) -> RunDirectory:
    run = submission.create(checked, submits.checkout, run_name=f"{checked.recipe.name}-{suffix}", force_new=True)
    submits.tell(f"Run {run.name} in {run.path}")
    return run


def _require_success(straight: RunDirectory, submits: Submits) -> None:
    ended = disturbance.attend(straight, submits.start)
    if ended.state != "SUCCEEDED":
        raise RunFailed(
            f"verify-resume: the undisturbed run {straight.name} ended as {ended.state}, so there is nothing to "
            f"compare with. {ended.cause}"
        )


def _refuse_slurm(checked: Checked) -> None:
    if checked.profile.executor == "slurm":
        raise InputError(
            f"--cluster: {checked.cluster!r} is a Slurm cluster, and verify-resume kills processes of this machine "
            "only. Use --cluster local, inside an allocation if need be."
        )
