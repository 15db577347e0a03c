"""Every process that belongs to a sandbox, found again without any record of it.

Steps outlive their slurmd, tasks outlive their slurmstepd, and some programs write over the memory that shows their
environment. So a member is what says so itself, what a member started, and what lives in a member's network.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from orchestrator import processes
from orchestrator.processes import Process

FOLDER_MARK = "ORCH_SANDBOX_MEMBER"
"""In the environment of every daemon: the sandbox's folder."""
PART_MARK = "ORCH_SANDBOX_PART"
"""In the environment of every daemon, and so of its slurmstepd: which part of the sandbox it is."""
CLIENTS = frozenset({"sbatch", "srun", "salloc", "sattach", "scontrol", "squeue", "sinfo", "scancel", "sdiag"})
ROUND_S = 1.0


def of(folder: Path) -> list[Process]:
    """Return all processes of the sandbox in ``folder``, without this process and its ancestors."""
    table = processes.everyone()
    found = {process.pid for process in table if _says_so(process.pid, folder)}
    found |= _in_networks(table, {network(pid) for pid in found} - {network(os.getpid()), network(1), None})
    found |= _descendants(table, found)
    return [process for process in table if process.pid in found - _own_line(table) and not process.ended]


def part(folder: Path, name: str) -> list[Process]:
    """Return the daemon of that name with what it started and what inherited its environment."""
    return processes.marked({FOLDER_MARK: str(folder), PART_MARK: name})


def network(pid: int) -> str | None:
    """Return the name of the network namespace of a process, None if the process is gone or not ours to see."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None


def in_network(name: str) -> list[Process]:
    """Return the processes in a network namespace, zombies left out."""
    return [process for process in processes.everyone() if not process.ended and network(process.pid) == name]


def on_node(folder: Path, node: str) -> list[Process]:
    """Return the processes of a node that has no network of its own: its slurmd, steps, tasks and their children."""
    table = processes.everyone()
    conf = _variable("SLURM_CONF", folder / "etc/slurm.conf")
    found = {process.pid for process in part(folder, f"slurmd-{node}")}
    for process in table:
        environment = _environment(process.pid)
        if conf in environment and f"SLURMD_NODENAME={node}".encode() in environment:
            found.add(process.pid)
    found |= _descendants(table, found)
    return [process for process in table if process.pid in found and not process.ended]


def end(targets: Iterable[Process], timeout_s: float) -> list[Process]:
    """Kill processes and return those that live on after ``timeout_s``."""
    targets = list(targets)
    processes.kill(targets)
    return processes.wait_gone(targets, timeout_s)


def end_all(folder: Path, timeout_s: float) -> list[Process]:
    """Kill every process of the sandbox until there is none, and return those that live on after ``timeout_s``."""
    until = time.monotonic() + timeout_s
    while (left := of(folder)) and time.monotonic() < until:
        end(left, ROUND_S)
    return left


def _says_so(pid: int, folder: Path) -> bool:
    environment = _environment(pid)
    if _variable(FOLDER_MARK, folder) in environment:
        return True
    if _variable("SLURM_CONF", folder / "etc/slurm.conf") not in environment:
        return False
    # A shell that has SLURM_CONF is a user's; what runs in a job, or is Slurm's own, belongs to the sandbox.
    in_job = any(variable.startswith((b"SLURMD_NODENAME=", b"SLURM_JOB_ID=")) for variable in environment)
    return in_job or _program(pid) in CLIENTS


def _in_networks(table: list[Process], names: set[str | None]) -> set[int]:
    return {process.pid for process in table if network(process.pid) in names} if names else set()


def _descendants(table: list[Process], ancestors: set[int]) -> set[int]:
    found = set(ancestors)
    grown = True
    while grown:
        more = {process.pid for process in table if process.parent in found} - found
        found |= more
        grown = bool(more)
    return found - ancestors


def _own_line(table: list[Process]) -> set[int]:
    parents = {process.pid: process.parent for process in table}
    line, pid = set(), os.getpid()
    while pid:
        line.add(pid)
        pid = parents.get(pid, 0)
    return line


def _variable(name: str, value: object) -> bytes:
    return f"{name}={value}".encode()


def _environment(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return set()  # It ended meanwhile, or is another user's.


def _program(pid: int) -> str:
    try:
        return Path(os.readlink(f"/proc/{pid}/exe")).name
    except OSError:
        return ""
