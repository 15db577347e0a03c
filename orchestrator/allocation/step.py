"""One task of a job step: a role's process on one node of a Slurm job, guarded and accounted for.

    srun ... python -m orchestrator.allocation.step --run-dir DIR --role train --replica 0 --start 1
        --generation 2 --log train.log --drain-s 60 -- python -m jobs.grpo ...

``srun`` says little of how a step ended: the highest exit code of all tasks, whichever it was, and
nothing about signals. So every task keeps a record on the shared file system: where it runs, as
which process, who asked it to stop, how it ended. It also looks for a newer attempt: tasks on a
node that was cut off from Slurm run on for minutes after their successors have started elsewhere,
and those must not write (measured: 52 to 92 s).
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator import control, processes
from orchestrator.allocation import guard, launch
from orchestrator.files import private_folder, read_json, write_json
from orchestrator.rendezvous import OWN_JOB
from orchestrator.run_directory import RunDirectory

LOOK_EVERY_S = 2.0
SUPERSEDED = 3
DRAINED = 75


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a task says of itself.

    Attributes:
        role: The role.
        replica: Its replica.
        rank: Which node of the replica, from 0.
        generation: The attempt.
        start: Which start of the replica in this attempt, from 0.
        host: The node's name.
        pid: The role's process there.
        began: That process's start time, Unix seconds.
        step: Slurm's name for the step, ``123.4``.
        signal: The signal that Slurm itself sent to stop it; empty if it sent none.
        exit_code: How the role ended, negative for a signal; None while it runs.
        superseded: Whether it was ended because a newer attempt exists.
    """

    role: str
    replica: int
    rank: int
    generation: int
    start: int
    host: str
    pid: int
    began: float
    step: str
    signal: str = ""
    exit_code: int | None = None
    superseded: bool = False


def path_of(run: RunDirectory, role: str, replica: int, rank: int) -> Path:
    """Return where a task keeps its record."""
    return run.steps / f"{role}-{replica}-{rank}.json"


def read(run: RunDirectory, role: str, replica: int, rank: int, *, generation: int, start: int) -> Record | None:
    """Return the record of one task of one start; None if it has not come to write one."""
    found = read_json(path_of(run, role, replica, rank))
    if found is None or (found["generation"], found["start"]) != (generation, start):
        return None
    return Record(**found)


def log_of(log: Path, rank: int) -> Path:
    """Return the log of a task: every node has its own, since appends of two nodes to one file may tear.

    >>> log_of(Path("a/train.log"), 2).name
    'train-node2.log'
    """
    return log if rank == 0 else log.with_name(f"{log.stem}-node{rank}{log.suffix}")


class Task:
    """Runs a role's command under the guard's rules and keeps the record."""

    def __init__(self, run: RunDirectory, record: Record) -> None:
        self._run = run
        self._record = record
        self._looked = time.monotonic()

    def run(self, command: list[str], drain_s: float) -> int:
        """Run the command to its end and return the exit code for srun."""
        signal.pthread_sigmask(signal.SIG_BLOCK, guard.HEARD)
        processes.adopt_orphans()
        child = guard.start(command, None)
        process = processes.find(child)
        self._write(pid=child, began=process.start if process else 0.0)
        status = guard.watch(child, drain_s, heard=self._heard, must_end=self._superseded)
        guard.end_leftovers()
        code = os.waitstatus_to_exitcode(status)
        self._write(exit_code=code)
        return self._for_srun(code)

    def _for_srun(self, code: int) -> int:
        """Return the code that makes srun do the right thing.

        A step is killed as soon as one task fails (``--kill-on-bad-exit``), so a node that has
        drained before rank 0 has saved must not look failed.
        """
        if self._record.superseded:
            return SUPERSEDED
        if self._record.rank > 0 and code == DRAINED:
            return 0
        return 128 - code if code < 0 else code

    def _heard(self, number: int) -> None:
        """The supervisor asks with SIGUSR2; a SIGTERM is Slurm's own, and the supervisor may not have heard it."""
        if number == signal.SIGTERM and not self._record.signal:
            self._write(signal="SIGTERM")

    def _superseded(self) -> bool:
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return False
        self._looked = time.monotonic()
        generation = self._record.generation
        # The file is opened, and so asked of the server; that a folder was not there NFS remembers for a minute.
        owner = control.newest_owner(self._run)
        newer = (owner is not None and owner.generation > generation) or self._run.attempt(generation + 1).exists()
        if generation == OWN_JOB or not newer:
            return False
        if not self._record.superseded:
            print(f"error: attempt {generation + 1} has begun; this one is ended.", file=sys.stderr)
            self._record = replace(self._record, superseded=True)  # Not written: the record is the newer attempt's now.
        return True

    def _write(self, **changes: object) -> None:
        self._record = replace(self._record, **changes)  # type: ignore[arg-type]
        if not self._record.superseded:
            private_folder(self._run.steps)
            record = self._record
            write_json(path_of(self._run, record.role, record.replica, record.rank), asdict(record))


def main(arguments: list[str] | None = None) -> int:
    """Run one task; its output goes to the role's log of this node."""
    given = _parse(arguments)
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    os.umask(0o077)
    os.environ["ORCH_NODE_RANK"] = str(rank)
    launch.write_output_to(log_of(given.log, rank))
    record = Record(
        role=given.role,
        replica=given.replica,
        rank=rank,
        generation=given.generation,
        start=given.start,
        host=socket.gethostname(),
        pid=0,
        began=0.0,
        step=f"{os.environ.get('SLURM_JOB_ID', '')}.{os.environ.get('SLURM_STEP_ID', '')}",
    )
    return Task(RunDirectory(given.run_dir), record).run(given.command, given.drain_s)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.allocation.step")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--role", required=True)
    parser.add_argument("--replica", type=int, required=True)
    parser.add_argument("--start", type=int, required=True)
    parser.add_argument("--generation", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--drain-s", type=float, required=True)
    parser.add_argument("command", nargs="+")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
