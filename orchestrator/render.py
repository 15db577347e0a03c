"""The script that is handed to the executor: a pure function of the plan and of where it runs.

``render`` and ``submit --dry-run`` print exactly this, ``submit`` writes exactly this, and a user
may run it by hand. It holds names and paths, never a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from orchestrator.errors import InputError
from orchestrator.plan import Plan
from orchestrator.slurm_options import Container, SiteOptions, SlurmOptions

LOCAL = "submit.sh"
SLURM = "submit.sbatch"
FAIL = 'fail() { echo "error: $HOSTNAME: $*" >&2; exit 1; }'
"""A function of bash that ends a script with a message that names the node."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a run happens.

    Attributes:
        checkout: The folder that holds ``jobs/`` and ``eval/``; the working directory of all roles.
        python: The interpreter, unless the profile names one for the nodes.
        run_dir: The run's folder.
    """

    checkout: Path
    python: Path
    run_dir: Path


def scripts(plan: Plan, site: Site) -> dict[str, str]:
    """Return every script of the run by its file name, the one with the trainer first.

    One, but for a pair: there, one for each group of services too.
    """
    jobs = range(len(plan.groups)) if plan.placement.kind == "pair" else [0]
    return {file_name(plan, group): script(plan, site, group) for group in jobs}


def file_name(plan: Plan, group: int = 0) -> str:
    """Return the name in the run's folder of the script that starts ``group``."""
    if plan.executor == "local":
        return LOCAL
    return SLURM if group == 0 else f"submit-{plan.groups[group].name}.sbatch"


def script(plan: Plan, site: Site, group: int = 0) -> str:
    """Return the text of a script that becomes the run's supervisor.

    Every value is quoted for the shell; a name with ``$(...)`` in it stays a name.

    Args:
        plan: What to run.
        site: Where.
        group: In a pair, whose job; else 0.

    Raises:
        InputError: The run's folder has a name that Slurm cannot be told.
    """
    if plan.executor == "local":
        return _local(plan, site)
    from orchestrator import sbatch

    return sbatch.script(plan, site, group)


def _local(plan: Plan, site: Site) -> str:
    # Output of a Python program that is not on a terminal would else arrive in blocks, after it mattered.
    environment = {"PYTHONUNBUFFERED": "1", **plan.profile.get("environment", {})}
    lines = [
        "#!/usr/bin/env bash",
        f"# Run {plan.name} on {plan.cluster}, roles: {', '.join(role.name for role in plan.roles)}.",
        "# 'orchestrator submit' starts this in the background; by hand it runs in the foreground.",
        "set -euo pipefail",
        "umask 077",
        f"cd {quote(str(site.checkout))}",
        *exports(environment),
        f"exec {quote(str(site.python))} -m orchestrator.allocation.supervisor --run-dir {quote(str(site.run_dir))}",
    ]
    return "\n".join(lines) + "\n"


def exports(environment: Mapping[str, str]) -> list[str]:
    """Return the lines of bash that set ``environment``."""
    return [f"export {name}={quote(value)}" for name, value in sorted(environment.items())]


def step_options(options: SlurmOptions, *, checkout: Path | None = None, run_dir: Path | None = None) -> list[str]:
    """Return the options of ``srun`` that put a role's step into its container; none without pyxis.

    Args:
        options: The role's: ``slurm_options.read(role.options)``.
        checkout: Shown inside, and the working directory there.
        run_dir: Shown inside.

    Raises:
        InputError: A folder has a name that cannot be mounted.
    """
    container = options.container
    if container is None or container.engine != "pyxis":
        return []
    mounts = [
        *_shown(checkout, run_dir),
        *(mount if ":" in mount else f"{mount}:{mount}" for mount in container.mounts),
    ]
    return [
        f"--container-image={container.image}",
        *([f"--container-mounts={','.join(mounts)}"] if mounts else []),
        *([f"--container-workdir={checkout}"] if checkout else []),
        *container.options,
    ]


def step_prefix(options: SlurmOptions, *, checkout: Path | None = None, run_dir: Path | None = None) -> list[str]:
    """Return the argv that wraps a role's program on its node; empty if nothing does.

    Modules and the profile's lines come first, outside of a container; each part replaces itself by the
    next, so signals reach the program.

    Args:
        options: The role's: ``slurm_options.read(role.options)``.
        checkout: Shown inside a container, and the working directory there.
        run_dir: Shown inside a container.

    Raises:
        InputError: A folder has a name that cannot be mounted.

    >>> step_prefix(SlurmOptions(modules=("cuda/12",)))[:2]
    ['bash', '-c']
    """
    return [*_shell(options), *_apptainer(options.container, checkout, run_dir)]


def role_interpreter(options: SlurmOptions, default: str) -> str:
    """Return the Python that runs the role's program: the container's, the role's own, or ``default``."""
    if options.container is not None:
        return options.container.python
    return options.interpreter or default


def step_interpreter(options: SlurmOptions, default: str) -> str:
    """Return the Python that the step itself begins with: with pyxis all of the step is inside the container."""
    if options.container is not None and options.container.engine == "pyxis":
        return options.container.python
    return default


def module_lines(modules: Sequence[str]) -> list[str]:
    """Return the lines of bash that load environment modules in this order, where ``FAIL`` is known."""
    if not modules:
        return []
    return [
        "# A script is no login shell, so nobody may have defined 'module' yet.",
        'for init in /etc/profile.d/{modules,lmod,z00_lmod}.sh "${MODULESHOME:-/usr/share/modules}/init/bash"; do',
        "  type module >/dev/null 2>&1 && break",
        '  [[ ! -r "$init" ]] || source "$init"',
        "done",
        *(f'module load {quote(module)} || fail "module {module} cannot be loaded."' for module in modules),
    ]


def _shell(options: SlurmOptions) -> list[str]:
    setup = options.setup if isinstance(options, SiteOptions) else ()
    environment = options.virtual_environment if options.container is None else None
    path = [f'export VIRTUAL_ENV={quote(environment)} PATH={quote(environment)}/bin:"$PATH"'] if environment else []
    lines = [*module_lines(options.modules), *path, *setup]
    return ["bash", "-c", "\n".join([FAIL, *lines, 'exec "$@"']), "bash"] if lines else []


def _apptainer(container: Container | None, checkout: Path | None, run_dir: Path | None) -> list[str]:
    if container is None or container.engine != "apptainer":
        return []
    # --nv only warns on a node without a GPU.
    return [
        "apptainer",
        "exec",
        "--nv",
        *(word for mount in (*_shown(checkout, run_dir), *container.mounts) for word in ("--bind", mount)),
        *(["--pwd", str(checkout)] if checkout else []),
        *container.options,
        container.image,
    ]


def _shown(*folders: Path | None) -> list[str]:
    """Return mounts that show folders inside under the names that they have outside."""
    found = [str(folder) for folder in folders if folder is not None]
    for folder in found:
        if any(mark in folder for mark in ":,\n"):
            raise InputError(
                f"{folder}: a folder with ':' or ',' in its name cannot be shown in a container. Rename it."
            )
    return [f"{folder}:{folder}" for folder in found]
