"""Processes as the kernel knows them (Linux, ``/proc``): who lives, who is whose child, in whose name.

A process is named by its pid *and* its start time, because pids are used again. Nothing here
imports more than the standard library: ``status`` and every guard start with it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SAME_START_S = 0.5
"""Boot time is only known to a fraction of a second, so start times of one process may differ by that."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """One line of the process table.

    Attributes:
        pid: Its process id.
        parent: The pid of its parent.
        session: The pid of its session's leader, whether or not that still lives.
        start: Unix time of its start, seconds; the same number as ``psutil.Process.create_time``.
        ended: True for a zombie, which waits to be reaped and runs no code any more.
    """

    pid: int
    parent: int
    session: int
    start: float
    ended: bool


def find(pid: int) -> Process | None:
    """Return the process with that pid, or None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command in the second field may hold spaces and brackets, so fields are counted from its end.
    fields = text[text.rindex(")") + 2 :].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        start=_boot_time() + int(fields[19]) / os.sysconf("SC_CLK_TCK"),
        ended=fields[0] in "ZX",
    )


def everyone() -> list[Process]:
    """Return all processes of the machine that this one may see."""
    found = (find(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def alive(pid: int, start: float) -> bool:
    """Return whether the process of that pid and start time still runs; a zombie does not."""
    process = find(pid)
    return process is not None and not process.ended and abs(process.start - start) < SAME_START_S


def descendants(pid: int) -> list[Process]:
    """Return children, grandchildren and so on of a process, zombies left out, parents first."""
    children: dict[int, list[Process]] = {}
    for process in everyone():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    ancestors = [pid]
    while ancestors:
        offspring = children.get(ancestors.pop(0), [])
        found += offspring
        ancestors += [child.pid for child in offspring]
    return [process for process in found if not process.ended]


def marked(variables: Mapping[str, str]) -> list[Process]:
    """Return own processes that were started with all these environment variables.

    Processes that retitle themselves (Ray's workers, vLLM's engine) write over the memory that the
    kernel shows as their environment and are missed; find those by parent or session.
    """
    wanted = {f"{name}={value}".encode() for name, value in variables.items()}
    return [process for process in everyone() if wanted <= _environment(process.pid)]


def kill(targets: Iterable[Process], number: int = signal.SIGKILL) -> None:
    """Send a signal to every process that still is the one it was when it was looked up."""
    for target in targets:
        if alive(target.pid, target.start):
            try:
                os.kill(target.pid, number)
            except ProcessLookupError:
                continue  # It ended by itself between the two lines.


def wait_gone(targets: Iterable[Process], timeout_s: float) -> list[Process]:
    """Wait until all have ended, at most ``timeout_s``, and return those that have not."""
    until = time.monotonic() + timeout_s
    left = list(targets)
    while left := [process for process in left if alive(process.pid, process.start)]:
        if time.monotonic() >= until:
            break
        time.sleep(0.02)
    return left


def readable(descriptor: int, timeout_s: float) -> bool:
    """Return whether a pipe has something to read, or its end, within the time."""
    return bool(select.select([descriptor], [], [], timeout_s)[0])


def die_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when ``parent`` ends, be it by SIGKILL.

    Survives ``exec``, not ``fork``. Ends this process at once if the parent is gone already.
    """
    _prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(128 + number)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, in place of init."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value}): {os.strerror(number)}")


def _environment(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()


@cache
def _boot_time() -> float:
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    raise OSError("/proc/stat: has no line 'btime', so start times of processes are unknown.")
