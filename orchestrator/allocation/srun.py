"""Starts a role as one job step, one task a node, and knows how it ended.

``srun`` passes SIGUSR2 on to the tasks and waits for them; SIGTERM makes it kill the step. Steps
overlap: those of roles that follow each other on a node, and the restart of a role whose last task
is still being cleaned away, must not wait for each other's CPUs.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.allocation import step
from orchestrator.allocation.launch import CHECKOUT, Started
from orchestrator.plan import Role
from orchestrator.run_directory import RunDirectory

LINGER_S = 30
"""After rank 0 has ended, the other tasks have its drain time and this long to end by themselves."""


@dataclass(frozen=True, kw_only=True)
class Step(Started):
    """A job step.

    Attributes:
        run: Where its tasks keep their records.
        role: The role.
        replica: The replica.
        generation: The attempt.
        number: Which start of the replica in this attempt.
    """

    run: RunDirectory
    role: str
    replica: int
    generation: int
    number: int

    def exit_code(self) -> int | None:
        """Return how the step ended: as rank 0 did, or, if another task failed first, as that one did."""
        code = self.guard.poll()
        if code is None:
            return None
        failed = self.failed()
        if failed is not None and failed.exit_code is not None:
            return failed.exit_code
        first = self.record(0)
        if first is not None and first.exit_code is not None:
            return first.exit_code
        # Its node was lost, or srun could not start it. That the other tasks drained well is no success.
        return 128 - code if code > 128 else code or -signal.SIGKILL

    def record(self, rank: int) -> step.Record | None:
        """Return what a task says of itself; None if it never came to run."""
        return step.read(self.run, self.role, self.replica, rank, generation=self.generation, start=self.number)

    @property
    def began(self) -> bool:
        """Whether any of its tasks has come to run."""
        return any(self.record(rank) is not None for rank in range(len(self.where)))

    def failed(self) -> step.Record | None:
        """Return the task that failed by itself, those left out that were killed because another had failed."""
        records = [record for rank in range(len(self.where)) if (record := self.record(rank)) is not None]
        bad = [record for record in records if record.exit_code not in (None, 0, step.DRAINED)]
        return next(iter(sorted(bad, key=lambda record: bool(record.signal))), None)

    def lost(self) -> tuple[str, ...]:
        """Return the nodes whose task did not say how it ended: killed with its node, or never started."""
        records = [self.record(rank) for rank in range(len(self.where))]
        return tuple(
            node for node, record in zip(self.where, records, strict=True) if record is None or record.exit_code is None
        )

    def signalled(self) -> step.Record | None:
        """Return a task that Slurm itself has asked to stop, if there is one.

        Tasks that srun ends because another one has failed get a SIGTERM as well; those do not count.
        """
        records = [record for rank in range(len(self.where)) if (record := self.record(rank)) is not None]
        if any(record.exit_code not in (None, 0, step.DRAINED) and not record.signal for record in records):
            return None
        return next((record for record in records if record.signal), None)

    def ask_to_stop(self) -> None:
        """Ask all tasks to save and end."""
        self._signal(signal.SIGUSR2)

    def kill(self) -> None:
        """Have srun kill the step; SIGKILL would end srun alone and leave the tasks."""
        self._signal(signal.SIGTERM)


def command(
    role: Role,
    nodes: Sequence[str],
    *,
    component: int | None,
    options: Sequence[str],
    prefix: Sequence[str],
    task: Sequence[str],
    argv: Sequence[str],
) -> list[str]:
    """Return the argv of a step. It holds no secret.

    Args:
        role: What is started.
        nodes: Where, in order of rank.
        component: Which component of a heterogeneous job; None for a plain one.
        options: More options of srun (containers).
        prefix: What wraps the role's own command on its node (modules, containers).
        task: The command of ``orchestrator.allocation.step`` with its arguments.
        argv: The role's command.
    """
    count = str(len(nodes))
    where = [] if component is None else [f"--het-group={component}"]
    cpus = [] if role.cpus_per_node is None else [f"--cpus-per-task={role.cpus_per_node}"]
    return [
        "srun",
        *where,
        f"--job-name={role.name}",
        f"--nodes={count}",
        f"--ntasks={count}",
        "--ntasks-per-node=1",
        f"--nodelist={','.join(nodes)}",
        "--distribution=block",
        *cpus,
        # Steps that overlap share the node's GPUs; a role sees as many as it asked for.
        f"--gres=gpu:{role.gpus_per_node}" if role.gpus_per_node else "--gres=none",
        "--overlap",
        "--cpu-bind=none",
        "--mpi=none",
        "--export=ALL",
        "--input=none",
        "--kill-on-bad-exit=1",
        f"--wait={int(role.drain_s) + LINGER_S}",
        f"--chdir={CHECKOUT}",
        *options,
        *task,
        "--",
        *prefix,
        *argv,
    ]


def start(argv: Sequence[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start srun in a session of its own; what it says itself goes to ``log``."""
    with open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
        return subprocess.Popen(
            list(argv),
            cwd=CHECKOUT,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
