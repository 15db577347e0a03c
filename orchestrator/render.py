"""The script that is handed to the executor: a pure function of the plan and of where it runs.

``render`` and ``submit --dry-run`` print exactly this, ``submit`` writes exactly this, and a user
may run it by hand. It holds names and paths, never a secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from orchestrator.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a run happens.

    Attributes:
        checkout: The folder that holds ``jobs/`` and ``eval/``; the working directory of all roles.
        python: The interpreter.
        run_dir: The run's folder.
    """

    checkout: Path
    python: Path
    run_dir: Path


def script(plan: Plan, site: Site) -> str:
    """Return the text of ``submit.sh``: the supervisor of the run, in the foreground.

    Every value is quoted for the shell; a name with ``$(...)`` in it stays a name.
    """
    # Output of a Python program that is not on a terminal would else arrive in blocks, after it mattered.
    environment = {"PYTHONUNBUFFERED": "1", **plan.profile.get("environment", {})}
    lines = [
        "#!/usr/bin/env bash",
        f"# Run {plan.name} on {plan.cluster}, roles: {', '.join(role.name for role in plan.roles)}.",
        "# 'orchestrator submit' starts this in the background; by hand it runs in the foreground.",
        "set -euo pipefail",
        "umask 077",
        f"cd {quote(str(site.checkout))}",
        *(f"export {name}={quote(value)}" for name, value in sorted(environment.items())),
        f"exec {quote(str(site.python))} -m orchestrator.allocation.supervisor --run-dir {quote(str(site.run_dir))}",
    ]
    return "\n".join(lines) + "\n"
