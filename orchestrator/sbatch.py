"""The batch script of a Slurm job: its header, and the few lines of bash from a bare node to the supervisor.

Slurm keeps a job's script, arguments and comment, and shows them to others; so there is no secret here, and the
environment of the submitting shell does not travel through Slurm at all (``--export=NIL``).
"""

from __future__ import annotations

import math
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from orchestrator import plan as plans
from orchestrator import render, slurm_options
from orchestrator.errors import InputError
from orchestrator.plan import Group, Plan
from orchestrator.profile import Profile

if TYPE_CHECKING:
    from orchestrator.render import Site

END_OF_PLAN = "END_OF_PLAN"
# A signal half way through a short job would end it before it has done anything.
LATEST_SIGNAL = 4


def script(plan: Plan, site: Site, group: int = 0) -> str:
    """Return the text of a batch script that becomes the supervisor of the job of ``group``."""
    profile = Profile.model_validate(plan.profile)
    is_pair = plan.placement.kind == "pair"
    components = [plan.groups[group]] if is_pair else list(plan.groups)
    headers = [_header(plan, profile, component, job_name(plan, group)) for component in components]
    lines = [
        "#!/bin/bash",
        f"# Run {plan.name} on {plan.cluster}, roles: {', '.join(_roles(plan, group if is_pair else None))}.",
        f"# 'orchestrator submit' gives this to sbatch with {' '.join(map(quote, arguments(site.run_dir)))}",
        "# and a comment; by hand, 'sbatch FILE' does, and from then on every verb knows the run.",
        *_divided(headers),
        "",
        *_preamble(profile),
        *_preflight(profile, site),
        *_adoption(plan),
        *_supervisor(group),
    ]
    return "\n".join(lines) + "\n"


def job_name(plan: Plan, group: int = 0) -> str:
    """Return what Slurm calls the job: as the run, the jobs of a pair's services with their group's name behind."""
    return plan.name if group == 0 else f"{plan.name}-{plan.groups[group].name}"


def arguments(run_dir: Path) -> list[str]:
    """Return the options of sbatch that send a job's output into the run's folder, which must exist by then.

    Not in the header: by hand the folder is made by the job, and Slurm fails a job whose output it cannot open.

    Raises:
        InputError: The folder has a name that Slurm cannot be told.
    """
    path = str(run_dir)
    if "\\" in path or not path.isprintable():
        raise InputError(
            f"{path!r}: Slurm cannot write to a folder with a '\\' or a line break in its name. Rename it."
        )
    return [f"--output={path.replace('%', '%%')}/slurm-%j.out"]


def _roles(plan: Plan, group: int | None) -> list[str]:
    return [role.name for role in plan.roles if group is None or (role.group == group and not role.url)]


def _header(plan: Plan, profile: Profile, group: Group, name: str) -> list[str]:
    """Return one component's options; Slurm takes nothing over from one component to the next."""
    options = slurm_options.read(group.options)
    limit_s = group.time_limit_s or plan.time_limit_s
    gpu_type = f"{options.gpu_type}:" if options.gpu_type else ""
    said = {
        "job-name": name,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "reservation": options.reservation,
        "exclude": ",".join(options.exclude) or None,
        "time": clock(limit_s),
        "nodes": group.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": group.cpus_per_node,
        "gpus-per-node": f"{gpu_type}{group.gpus_per_node}" if group.gpus_per_node else None,
        "mem": f"{math.ceil(group.memory_gb * 1024)}M" if group.memory_gb else None,
        # To the batch script alone: it drains the roles in order.
        "signal": f"B:USR2@{max(1, min(profile.signal_s, limit_s // LATEST_SIGNAL))}",
        # sbatch 22.05 takes NIL for the name of a variable: nothing travels then either, but the node reads the
        # user's login files first.
        "export": "NIL",
        "open-mode": "append",
    }
    # Slurm's own requeue breaks a heterogeneous job that has lost its leader's node; a successor is queued instead.
    flags = ["--no-requeue", *(["--exclusive"] if options.exclusive else []), *options.extra]
    return [*(f"--{key}={value}" for key, value in said.items() if value is not None), *flags]


def clock(limit_s: int) -> str:
    """Return a span of time as Slurm reads it.

    >>> clock(90_061)
    '1-01:01:01'
    """
    minutes, seconds = divmod(limit_s, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02}:{minutes:02}:{seconds:02}"


def _divided(headers: list[list[str]]) -> list[str]:
    lines: list[str] = []
    for header in headers:
        # The batch script runs in the first component; Slurm would make an empty file for each of the others.
        lines += ["#SBATCH hetjob", "#SBATCH --output=/dev/null"] if lines else []
        lines += [f"#SBATCH {option}" for option in header]
    return lines


def _preamble(profile: Profile) -> list[str]:
    environment = {"PYTHONUNBUFFERED": "1", **profile.environment, **profile.slurm.environment}
    virtual = profile.slurm.virtual_environment
    path = [f'export VIRTUAL_ENV={quote(virtual)} PATH={quote(virtual)}/bin:"$PATH"'] if virtual else []
    return [
        "set -euo pipefail",
        "umask 077",
        "# The job got no environment; what srun starts from here is to get this one.",
        "unset SLURM_EXPORT_ENV SLURM_GET_USER_ENV SBATCH_EXPORT SRUN_EXPORT_ENV",
        'export PATH="${PATH:-/usr/local/bin:/usr/bin:/bin}"',
        'export HOME=${HOME:-~} USER="${USER:-$(id -un)}"',
        render.FAIL,
        *render.exports(environment),
        *_loose(profile),
        *path,
        "",
    ]


def _loose(profile: Profile) -> list[str]:
    """Return the site's own lines; neither they nor what defines ``module`` is written for a strict shell."""
    lines = [
        *render.module_lines(profile.slurm.modules),
        *profile.slurm.setup,
    ]
    return ["set +eu", *lines, "set -eu"] if lines else []


def _preflight(profile: Profile, site: Site) -> list[str]:
    shared = "Put it on a file system that all nodes share"
    return [
        f"checkout={quote(str(site.checkout))}",
        f"python={quote(profile.slurm.interpreter or str(site.python))}",
        f"run={quote(str(site.run_dir))}",
        f'cd "$checkout" 2>/dev/null || fail "there is no checkout $checkout. {shared}."',
        '[[ -x "$python" ]] || fail "there is no interpreter $python. '
        f'{shared}, or name another in the profile: slurm.virtual_environment."',
        '[[ -w "${run%/*}" ]] || fail "there is no folder ${run%/*} to write to. '
        f'{shared}, make it, or name another: export ORCH_RUNS=... before submit or render."',
        "",
    ]


def _adoption(plan: Plan) -> list[str]:
    text = plans.to_json(plan).rstrip("\n")
    assert END_OF_PLAN not in text.splitlines()
    return [
        "# By hand: makes the run's folder, and refuses one of another plan. 'submit' has made it already.",
        '[[ "${1:-}" == --submitit ]] ||'
        f' "$python" -m orchestrator.allocation.adopt --run-dir "$run" <<\'{END_OF_PLAN}\'',
        text,
        END_OF_PLAN,
        "",
    ]


def _supervisor(group: int) -> list[str]:
    which = f" --group {group}" if group else ""
    return [
        'echo "The run goes on in $run."',
        'exec >>"$run/slurm-${SLURM_JOB_ID:-0}.out" 2>&1',
        "# In the place of this shell, which Slurm's signal is for.",
        f'exec "$python" -m orchestrator.allocation.supervisor --run-dir "$run"{which} "$@"',
    ]
