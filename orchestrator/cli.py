"""The command line. Data on the standard output, talk on the standard error, exit codes as in ``errors``.

Everything but click is imported inside the commands, so that ``--help`` and ``status`` answer at once on a
slow network filesystem.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.errors import ConflictError, InputError, OrchestratorError, SchedulerUnavailable

if TYPE_CHECKING:
    from orchestrator.plan import Plan, Role
    from orchestrator.run_directory import RunDirectory
    from orchestrator.status import Status
    from orchestrator.submission import Checked

recipe_file = click.argument(
    "recipe",
    metavar="RECIPE",
    type=click.Path(path_type=Path),
    help="A recipe, for example recipes/geo3k-tiny.yaml.",
)
changes = click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1, help="Changes, for example train.steps=3.")
cluster_option = click.option("--cluster", metavar="NAME", help="Profile in cluster/. Without Slurm: local.")
run_name_option = click.option("--run-name", metavar="NAME", help="Name of the run. Left out: the recipe's.")
some_run = click.argument("run", metavar="RUN", help="A run's name, or its folder.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
follow_option = click.option("--follow", is_flag=True, help="Watch the run to its end.")


class InOrder(click.Group):
    """Lists its commands in the order of this file, which is that of a run's life."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)


@click.group(
    cls=InOrder,
    help="Runs reinforcement learning of vision-language models with a judge, on Slurm or on one machine.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong input, 3 the run exists or is running, 4 not found, "
    "5 cancelled, 6 crashes without progress, 75 drained or scheduler unavailable, 130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def app() -> None:
    """Parse nothing but the command's name."""


@app.command()
@recipe_file
@changes
@cluster_option
@run_name_option
@click.option("--dry-run", is_flag=True, help="Print plan and script; do nothing.")
@follow_option
@click.option("--parsable", is_flag=True, help="Print only 'id;folder'.")
@click.option("--force-new", is_flag=True, help="If the name is taken, append -2, -3, ...")
@json_option
def submit(
    *,
    recipe: Path,
    overrides: tuple[str, ...],
    cluster: str | None,
    run_name: str | None,
    dry_run: bool,
    follow: bool,
    parsable: bool,
    force_new: bool,
    as_json: bool,
) -> None:
    """Start a run of RECIPE."""
    from orchestrator import inspection

    checkout = inspection.checkout()
    checked = _checked(recipe, overrides, cluster, checkout)
    from orchestrator import submission

    submission.refuse_if_lacking(checked)
    for warning in submission.warnings(checked):
        _talk(f"warning: {warning}")
    if dry_run:
        _preview(checked, checkout, run_name, as_json=as_json)
        return
    run = submission.create(checked, checkout, run_name=run_name, force_new=force_new)
    started = _start_new(run)
    _announce(run, started, parsable=parsable, as_json=as_json)
    if follow:
        _follow(run)


@app.command()
@recipe_file
@changes
@cluster_option
@click.option("--show", is_flag=True, help="Print the whole recipe, each value with its origin.")
@json_option
def validate(*, recipe: Path, overrides: tuple[str, ...], cluster: str | None, show: bool, as_json: bool) -> None:
    """Check RECIPE and every name in it, without starting anything."""
    from orchestrator import inspection

    checked = _checked(recipe, overrides, cluster, inspection.checkout())
    from orchestrator import submission

    lacking = [str(problem) for problem in submission.lacking(checked)]
    if as_json:
        _print_json({"schema": 1, "valid": True, "recipe": checked.source.data, "cannot_run_here": lacking})
    elif show:
        print("\n".join(_origins(checked)))
    for problem in lacking:
        _talk(f"warning: {submission.where_name(checked)} cannot run it: {problem}")
    for warning in submission.warnings(checked):
        _talk(f"warning: {warning}")
    roles = ", ".join(role.name for role in checked.plan().roles)
    _talk(f"{recipe}: valid. Roles: {roles}. Cluster profile: {checked.cluster}.")


@app.command()
@recipe_file
@changes
@cluster_option
@run_name_option
def render(*, recipe: Path, overrides: tuple[str, ...], cluster: str | None, run_name: str | None) -> None:
    """Print the script that submit would hand to the executor, and each with its name if there are several."""
    from orchestrator import inspection

    checkout = inspection.checkout()
    checked = _checked(recipe, overrides, cluster, checkout)
    scripts = _scripts(checked, checkout, run_name)
    for name, text in scripts.items():
        print(text if len(scripts) == 1 else f"# {name}\n{text}", end="")


@app.command()
@click.argument("run", metavar="[RUN]", required=False, help="A run; the newest if left out.")
@json_option
def status(*, run: str | None, as_json: bool) -> None:
    """Show what a run is doing."""
    from orchestrator import status as statuses
    from orchestrator import waiting

    directory = _newest() if run is None else _found(run)
    now = statuses.read(directory, waiting.ask(directory))
    if as_json:
        _print_json(now.to_json())
        return
    print("\n".join(_described(now)))


@app.command()
@some_run
def watch(*, run: str) -> None:
    """Show a run as it goes, until it ends or you press q."""
    from orchestrator import watch as watching

    sys.exit(watching.watch(_found(run)))


@app.command()
@some_run
@click.option("--role", metavar="NAME", help="Only this role: judge, judge-0, train, supervisor.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.option("--attempt", type=int, metavar="N", help="Which attempt; the newest if left out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def logs(*, run: str, role: str | None, follow: bool, attempt: int | None, as_json: bool) -> None:
    """Print the output of a run's roles."""
    from dataclasses import asdict

    from orchestrator import control
    from orchestrator import logs as log_files

    directory = _found(run)
    if follow:
        lines = log_files.follow(directory, lambda: control.state(directory).ended, role, attempt)
    else:
        lines = log_files.read(directory, role, attempt)
    for line in lines:
        if as_json:
            print(json.dumps(asdict(line)), flush=follow)
        else:
            print(line.text if role == line.source else f"{line.source} | {line.text}", flush=follow)


@app.command()
@some_run
def cancel(*, run: str) -> None:
    """Ask a run to save and end. It returns at once; watch with status."""
    from orchestrator import control

    directory = _found(run)
    _settle(directory)
    control.cancel(directory, "orchestrator cancel")
    now = control.state(directory)
    done = "Cancelled" if now.state == "CANCELLED" else "Asked to save and end:"
    _talk(f"{done} {directory.name}. See: python -m orchestrator status {directory.name}")


@app.command()
@some_run
@follow_option
@json_option
def resume(*, run: str, follow: bool, as_json: bool) -> None:
    """Continue a run from its last verified checkpoint, with the plan it was submitted with."""
    from orchestrator import control

    directory = _found(run)
    now = control.state(directory)
    if now.state == "SUCCEEDED":
        _talk(f"{directory.name} has succeeded already; there is nothing to continue.")
        return
    if now.pid is not None:
        raise ConflictError(
            f"run: {directory.name} is {now.state} (pid {now.pid} on {now.host}). "
            f"Watch it with: python -m orchestrator status {directory.name}"
        )
    _announce(directory, _start(directory), parsable=False, as_json=as_json)
    if follow:
        _follow(directory)


@app.command(name="list")
@json_option
def list_runs(*, as_json: bool) -> None:
    """List all runs, the newest first."""
    from orchestrator import run_directory
    from orchestrator import status as statuses

    found = [statuses.read(run) for run in run_directory.existing() if _readable(run)]
    if as_json:
        _print_json({"schema": statuses.SCHEMA, "runs": [now.to_json() for now in found]})
        return
    if not found:
        _talk(f"No runs in {run_directory.runs_root()}.")
    for now in found:
        done = sum(role.state == "done" for role in now.roles)
        took = statuses.clock(now.elapsed_s)
        print(f"{now.name:<32} {now.state:<10} attempt {now.attempt}  {done}/{len(now.roles)} roles done  {took}")


@app.command()
@some_run
@json_option
def goodput(*, run: str, as_json: bool) -> None:
    """Show what a run's time was spent on."""
    from orchestrator import goodput as accounts

    directory = _found(run)
    found = accounts.read(directory)
    if as_json:
        _print_json(found.to_json())
    else:
        print("\n".join(accounts.table(directory.name, found)))


@app.command(name="verify-resume")
@recipe_file
@changes
@cluster_option
@click.option("--role", default="", metavar="NAME", help="The role that trains; needed if there are several.")
@click.option("--kills", default=3, type=click.IntRange(min=1), metavar="N", help="How often the second run is killed.")
@click.option("--seed", default=1, metavar="N", help="Chooses what is killed when.")
@click.option("--same-verdicts", is_flag=True, help="Give the second run the judge's answers of the first.")
@json_option
def verify_resume(
    *,
    recipe: Path,
    overrides: tuple[str, ...],
    cluster: str | None,
    role: str,
    kills: int,
    seed: int,
    same_verdicts: bool,
    as_json: bool,
) -> None:
    """Prove that a run of RECIPE which is killed ends with the same bits as one that is not."""
    from orchestrator import inspection
    from orchestrator.verify_resume import certificate, proof

    checkout = inspection.checkout()
    order = proof.Order(role=role, kills=kills, seed=seed, same_verdicts=same_verdicts)
    submits = proof.Submits(
        checked=lambda more: _checked(recipe, (*overrides, *more), cluster, checkout),
        start=_start_new,
        checkout=checkout,
        tell=_talk,
    )
    found, path = proof.prove(order, submits)
    if as_json:
        _print_json(found)
    else:
        print("\n".join([*certificate.table(found), f"Certificate: {path}"]))
    if found["verdict"] != "identical":
        sys.exit(1)


@app.command()
@cluster_option
@click.option("--probe", is_flag=True, help="Run a job of some seconds on one node.")
@json_option
def doctor(*, cluster: str | None, probe: bool, as_json: bool) -> None:
    """Check that runs can work here: Slurm's settings and faults, limits, software, shared files."""
    from orchestrator import doctor as diagnosis
    from orchestrator import inspection, profile

    folder = inspection.checkout() / "cluster"
    name = cluster or profile.default(folder)
    found = []
    for finding in diagnosis.look(profile.load(name, folder), probe=probe):
        found.append(finding)
        if not as_json:
            print(finding, flush=True)
    if as_json:
        _print_json({"schema": 1, "cluster": name, "findings": [finding.to_json() for finding in found]})
    if any(finding.verdict == "problem" for finding in found):
        sys.exit(1)


@app.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, help="A run, or several to put side by side.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Where to write the page.")
@json_option
def report(*, runs: tuple[str, ...], output: Path | None, as_json: bool) -> None:
    """Write report.html of a run, finished or not, or one page of several, and print its path."""
    import subprocess

    from orchestrator import inspection, run_directory

    directories = [_found(run) for run in runs]
    if output is None and len(directories) > 1:
        output = run_directory.runs_root() / f"{'-'.join(directory.name for directory in directories)}.html"
    page = directories[0].report if output is None else output.absolute()
    chosen = [word for directory in directories for word in ("--run-dir", str(directory.path))]
    arguments = [sys.executable, "-m", "eval.report", *chosen, "--output", str(page)]
    code = subprocess.run(arguments, cwd=inspection.checkout(), stdout=sys.stderr, check=False).returncode
    if code != 0:
        sys.exit(code)
    if as_json:
        _print_json({"schema": 1, "report": str(page)})
    else:
        print(page)


@app.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", metavar="RUN[:LABEL] RUN[:LABEL]...", nargs=-1, type=click.UNPROCESSED)
def compare(*, arguments: tuple[str, ...]) -> None:
    """Say what changed between runs, and whether it is chance; --help lists the options."""
    import subprocess

    from orchestrator import inspection

    # -P: names and folders of runs are read where the user is, modules in the checkout and nowhere else.
    paths = [str(inspection.checkout()), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-P", "-m", "eval.compare", *arguments]
    sys.exit(subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, check=False).returncode)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from orchestrator import schema as schemas
    from orchestrator.recipe import Recipe

    _print_json(schemas.build(Recipe))


def main() -> None:
    """Run the command line; what a user can cause ends in one message and its exit code."""
    # The shell's own habit: an interrupted command ends by SIGINT, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        app(prog_name="python -m orchestrator")
    except OrchestratorError as error:
        _talk(f"error: {error}")
        sys.exit(error.exit_code)


def _checked(recipe: Path, overrides: tuple[str, ...], cluster: str | None, checkout: Path) -> Checked:
    with _no_plugins():
        from orchestrator import validation

        return validation.check(recipe, overrides, cluster, checkout)


@contextmanager
def _no_plugins() -> Iterator[None]:
    """Keep pydantic from looking for plugins, for which it opens the metadata of every installed package.

    That takes an eighth of a second on a fast disk. What is started later keeps the caller's environment.
    """
    name = "PYDANTIC_DISABLE_PLUGINS"
    before = os.environ.get(name)
    os.environ[name] = "__all__"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _scripts(checked: Checked, checkout: Path, run_name: str | None) -> dict[str, str]:
    from orchestrator import render as rendering
    from orchestrator import run_directory, submission

    run = run_directory.named(run_name or checked.recipe.name)
    return rendering.scripts(checked.plan(run_name), submission.site(run, checkout))


def _preview(checked: Checked, checkout: Path, run_name: str | None, *, as_json: bool) -> None:
    """Print what submit would write, byte by byte, and that nothing was started."""
    from orchestrator import plan, run_directory, submission

    the_plan = checked.plan(run_name)
    scripts = _scripts(checked, checkout, run_name)
    run = run_directory.named(the_plan.name)
    if as_json:
        _print_json({"schema": 1, "plan": json.loads(plan.to_json(the_plan)), "scripts": scripts})
    else:
        shown = {"plan.json": plan.to_json(the_plan), **scripts}
        print("\n".join(f"# {run.path / name}\n{text}" for name, text in shown.items()), end="")
    for line in _outline(the_plan):
        _talk(f"  {line}")
    _talk(f"Placement: {the_plan.placement.kind}. {the_plan.placement.why}")
    if run.path.exists():
        _talk(f"note: {submission.conflict(run, checked.source.sha256)}")
    _talk("Dry run: nothing was written, nothing was started.")


def _outline(the_plan: Plan) -> list[str]:
    """Return the roles in words, each below the nodes that it runs on if there are groups of nodes."""
    lines = []
    for number, group in enumerate(the_plan.groups):
        options = ", ".join(f"{key} {value}" for key, value in group.options.items())
        nodes = "1 node" if group.nodes == 1 else f"{group.nodes} nodes"
        lines.append(f"{group.name}: {nodes} with {group.gpus_per_node} GPUs{f', {options}' if options else ''}")
        lines += [f"  {_in_words(role)}" for role in the_plan.roles if role.group == number and not role.url]
    without = [role for role in the_plan.roles if role.url or not the_plan.groups]
    return lines + [_in_words(role) for role in without]


def _in_words(role: Role) -> str:
    waits = f", after {', '.join((*role.after, *role.needs))}" if role.after or role.needs else ""
    if role.url:
        return f"{role.name}: service at {role.url}{waits}"
    size = f"{role.replicas} x " * (role.replicas > 1) + f"{role.nodes} nodes x " * (role.nodes > 1)
    return f"{role.name}: {role.kind} {role.job}, {size}{role.gpus_per_node} GPUs{waits}"


def _origins(checked: Checked) -> list[str]:
    """Return every value of the recipe in one line with the place that set it."""
    from orchestrator import recipe
    from orchestrator.strict_yaml import Node

    def lines(node: Node, path: tuple[str | int, ...]) -> list[str]:
        if isinstance(node.value, dict) and node.value:
            return [line for key, child in node.value.items() for line in lines(child, (*path, key))]
        if isinstance(node.value, list) and node.value:
            return [line for index, child in enumerate(node.value) for line in lines(child, (*path, index))]
        return [f"{recipe.dotted(path)} = {json.dumps(node.value, ensure_ascii=False)}  # {node.place}"]

    return lines(checked.source.tree, ())


def _start(run: RunDirectory) -> dict[str, Any]:
    from orchestrator import plan

    the_plan = plan.load(run.plan)
    if the_plan.executor == "slurm":
        from orchestrator.executors import slurm

        return slurm.start(run, the_plan)
    from orchestrator.executors import local

    return local.start(run, the_plan)


def _start_new(run: RunDirectory) -> dict[str, Any]:
    """Start a run that has just been made; if nothing came of it, leave nothing that is in the way later."""
    try:
        return _start(run)
    except (SchedulerUnavailable, InputError):
        from orchestrator.executors import slurm_submission

        if not run.run.exists():  # else it is not known whether a job was queued
            slurm_submission.discard(run)
        raise


def _settle(run: RunDirectory) -> None:
    """Find out what became of a submission that was interrupted."""
    from orchestrator.executors import slurm_submission

    _, told = slurm_submission.settle(run)
    if told:
        _talk(f"note: {told}")


def _announce(run: RunDirectory, started: dict[str, Any], *, parsable: bool, as_json: bool) -> None:
    number = started.get("job_id", started.get("pid"))
    if as_json:
        _print_json({"schema": 1, "run": run.name, "path": str(run.path), "id": number})
    elif parsable:
        print(f"{number};{run.path}")
    else:
        how = f"queued as job {number}" if started["executor"] == "slurm" else "started"
        print(f"Run {run.name} {how} in {run.path}")
        _talk(f"  python -m orchestrator status {run.name} | logs {run.name} -f | cancel {run.name}")


def _follow(run: RunDirectory) -> None:
    from orchestrator import follow

    sys.exit(follow.watch(run))


def _described(now: Status) -> list[str]:
    from orchestrator import follow
    from orchestrator import status as statuses

    if now.ended_at is not None or now.state == "LOST":
        return [follow.ending(now), *(f"  {statuses.line(role)}" for role in now.roles)]
    head = f"{now.name} {now.state}, attempt {now.attempt}, {statuses.clock(now.elapsed_s)}, {now.path}"
    doing = [f"  {now.doing}"] if now.doing else []
    return [head, *doing, *(f"  {statuses.line(role)}" for role in now.roles)]


def _found(run: str) -> RunDirectory:
    from orchestrator import plan, run_directory

    directory = run_directory.find(run)
    try:
        plan.load(directory.plan)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{directory.plan}: is not a plan that this version reads: {error}") from None
    return directory


def _readable(run: RunDirectory) -> bool:
    """Say whether the run can be read; one damaged run must not hide the others."""
    try:
        _found(str(run.path))
    except InputError as error:
        _talk(f"warning: {error}")
        return False
    return True


def _newest() -> RunDirectory:
    from orchestrator import run_directory
    from orchestrator.errors import NotFound

    runs = run_directory.existing()
    if not runs:
        raise NotFound(
            f"run: there are no runs in {run_directory.runs_root()}. Start one with: python -m orchestrator submit"
        )
    return runs[0]


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _talk(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
