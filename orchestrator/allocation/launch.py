"""How one role is started: its command, its environment, its log, and the guard around it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator import processes
from orchestrator.plan import Role
from orchestrator.run_directory import RunDirectory

CHECKOUT = Path(__file__).resolve().parents[2]
EXTERNAL = "orchestrator.allocation.external"
"""What stands for a service that runs elsewhere: it asks the service's URL and publishes the endpoint."""
REPORT_TIMEOUT_S = 30.0
"""A guard that has not reported its role's pid by then is broken; usually it takes 50 ms."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """A role's process and the guard around it.

    Attributes:
        guard: Our own child.
        pid: The role's process; 0 if it runs on another node, whose record then says more.
        start: That process's start time, Unix seconds.
        where: The nodes it runs on, in order of rank; empty for this machine.
    """

    guard: subprocess.Popen[bytes]
    pid: int
    start: float
    where: tuple[str, ...] = ()

    def exit_code(self) -> int | None:
        """Return how it ended, negative for a signal; None while it runs."""
        return self.guard.poll()

    def ask_to_stop(self) -> None:
        """Ask the role to save and end; the guard kills it when its time is over."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the guard of a role that did not end in time; what it guarded falls to the supervisor."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.guard.poll() is None:
            os.kill(self.guard.pid, number)


def module(job: str) -> str:
    """Return what ``python -m`` runs for a job's name.

    >>> module("grpo"), module("eval"), module("my.package")
    ('jobs.grpo', 'eval.run', 'my.package')
    """
    if job == "eval":
        return "eval.run"
    return job if "." in job else f"jobs.{job}"


def command(run: RunDirectory, role: Role, python: str = sys.executable) -> list[str]:
    """Return the argv of a role. It holds no secret: everybody on the machine can read it."""
    program = EXTERNAL if role.url else module(role.job)
    return [python, "-m", program, "--run-dir", str(run.path), "--role", role.name]


def environment(
    base: Mapping[str, str], run: RunDirectory, role: Role, *, replica: int, generation: int
) -> dict[str, str]:
    """Return the environment of one replica of a role, the recipe's own entries last.

    A role without a GPU gets one OpenMP thread: several processes share the cores of such a
    machine, and two threads on one busy core are slower than one.
    """
    ours = marks(run, role.name, replica if role.kind == "service" else None, generation)
    inherited = {name: value for name, value in base.items() if not name.startswith("SUBMITIT_")}
    threads = {"OMP_NUM_THREADS": "1"} if role.gpus_per_node == 0 else {}
    return inherited | {"PYTHONUNBUFFERED": "1"} | threads | ours | role.environment


def marks(run: RunDirectory, role: str, replica: int | None, generation: int) -> dict[str, str]:
    """Return the variables by which a process is known to belong to a role of a run."""
    known = {"ORCH_RUN_DIR": str(run.path), "ORCH_ROLE": role, "ORCH_GENERATION": str(generation)}
    return known if replica is None else known | {"ORCH_REPLICA": str(replica)}


def log_name(role: Role, replica: int) -> str:
    """Return the file name of a replica's log: ``train.log``, ``judge-0.log``."""
    return f"{role.name}-{replica}.log" if role.kind == "service" else f"{role.name}.log"


class Launcher(Protocol):
    """Starts replicas of roles."""

    def start(self, role: Role, replica: int, *, number: int, log: str) -> Started:
        """Start a replica.

        Args:
            role: Of the plan.
            replica: Which one.
            number: Which start of the replica in this attempt, from 0.
            log: File name of its log.

        Raises:
            OSError: It could not be started.
        """
        ...


class OnThisMachine:
    """Starts roles as processes of this machine, each under its guard."""

    def __init__(self, run: RunDirectory, generation: int) -> None:
        self._run = run
        self._generation = generation

    def start(self, role: Role, replica: int, *, number: int, log: str) -> Started:  # noqa: ARG002
        env = environment(os.environ, self._run, role, replica=replica, generation=self._generation)
        path = self._run.attempt(self._generation) / log
        return start(command(self._run, role), env, path, drain_s=role.drain_s)


def start(
    argv: list[str], env: Mapping[str, str], log: Path, *, drain_s: float, pass_fds: tuple[int, ...] = ()
) -> Started:
    """Start a command under a guard, its output appended to ``log``, its input empty.

    Raises:
        OSError: The guard ended without reporting, or did not report in time.
    """
    reading, writing = os.pipe()
    guard = [sys.executable, "-m", "orchestrator.allocation.guard", "--parent", str(os.getpid())]
    options = ["--drain-s", str(drain_s), "--report-fd", str(writing), "--"]
    try:
        with open(log, "ab", opener=_private) as output:
            process = subprocess.Popen(
                [*guard, *options, *argv],
                cwd=CHECKOUT,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(writing, *pass_fds),
                start_new_session=True,
            )
    finally:
        os.close(writing)
    return _reported(process, reading, log)


def _reported(process: subprocess.Popen[bytes], reading: int, log: Path) -> Started:
    with os.fdopen(reading, "rb") as pipe:
        ready = processes.readable(pipe.fileno(), REPORT_TIMEOUT_S)
        report = pipe.readline().split() if ready else []
    if len(report) != 2:
        process.kill()
        process.wait()
        raise OSError(f"{log}: the guard ended or hung before it had started its role.")
    return Started(guard=process, pid=int(report[0]), start=float(report[1]))


def write_output_to(log: Path) -> None:
    """Send all that this process and its children print to a log of the owner's alone."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
