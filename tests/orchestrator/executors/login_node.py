"""A user at the login node of a sandbox: runs the command line there, looks at runs and at Slurm's queue."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cluster.sandbox import Sandbox
from orchestrator import control
from orchestrator.run_directory import RunDirectory

CHECKOUT = Path(__file__).resolve().parents[3]
TIMEOUT_S = 60.0
RECIPE = """\
name: a
roles:
  one: {{job: command, with: {{argv: [sh, -c, "{command}"]}}}}
time_limit: 5m
"""

SBATCH = """\
#!/bin/sh
mkdir "$0.used" 2>/dev/null || exec {sbatch} "$@"
{before}
{sbatch} "$@"
code=$?
{after}
exit $code
"""


class LoginNode:
    """The command line in a sandbox, with runs in a folder of their own."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self.variables = {"ORCH_RUNS": str(folder / "runs")}

    def recipe(self, command: str = "true") -> Path:
        """Write a recipe of one role that runs a shell command."""
        path = self.folder / "a.yaml"
        path.write_text(RECIPE.format(command=command))
        return path

    def run(self, name: str = "a") -> RunDirectory:
        """Return the run's folder."""
        return RunDirectory(self.folder / "runs" / name)

    def orchestrator(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        given = [f"{name}={value}" for name, value in (self.variables | variables).items()]
        command = ["env", *given, sys.executable, "-m", "orchestrator", *map(str, arguments)]
        return self.sandbox.run(command, TIMEOUT_S, cwd=CHECKOUT)

    def at_once(self, times: int, *arguments: str | Path) -> list[subprocess.CompletedProcess[str]]:
        """Run the same command several times at the same time."""
        with ThreadPoolExecutor(times) as pool:
            return list(pool.map(lambda _: self.orchestrator(*arguments), range(times)))

    def submit(self, command: str = "true") -> str:
        """Submit a run and return its job's id."""
        done = self.orchestrator("submit", self.recipe(command), "--parsable")
        assert done.returncode == 0, done.stderr
        return done.stdout.partition(";")[0]

    def status(self, name: str = "a") -> dict[str, Any]:
        """Return what `status --json` prints."""
        done = self.orchestrator("status", name, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def hold_jobs(self) -> None:
        """Let no job of the partition start."""
        self.sandbox.run(["scontrol", "update", "partitionname=train", "state=down"], check=True)

    def let_jobs_start(self) -> None:
        """Let jobs start again."""
        self.sandbox.run(["scontrol", "update", "partitionname=train", "state=up"], check=True)

    def queue(self) -> list[str]:
        """Return the ids of one's jobs that wait or run."""
        return self.sandbox.run(["squeue", "--me", "--noheader", "--format=%i"], check=True).stdout.split()

    def around_sbatch(self, *, before: str = "", after: str = "") -> dict[str, str]:
        """Return variables with which another sbatch is found, that at its first call does something besides."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        real = self.sandbox.run(["sh", "-c", "command -v sbatch"], check=True).stdout.strip()
        path = self.sandbox.run(["printenv", "PATH"], check=True).stdout.strip()
        fake = folder / "sbatch"
        fake.write_text(SBATCH.format(before=before, sbatch=real, after=after))
        fake.chmod(0o755)
        return {"PATH": f"{folder}:{path}"}

    def ended(self, name: str = "a", timeout_s: float = 30.0) -> str:
        """Return in which state a run has ended, when it has."""
        self.wait_for(lambda: control.state(self.run(name)).ended, "the end", timeout_s)
        return control.state(self.run(name)).state

    def wait_for(self, condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> None:
        """Wait until a condition holds, or fail saying what was waited for."""
        until = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < until, f"waited {timeout_s:g} s for {what}"
            time.sleep(0.05)


def events(run: RunDirectory, names: Sequence[str]) -> list[str]:
    """Return the events of those names in the ledger, in order."""
    lines = (json.loads(line) for line in run.ledger.read_text().splitlines())
    return [line["event"] for line in lines if line["event"] in names]
