"""The guard: one small process around every role, so that a role leaves nothing behind.

    python -m orchestrator.allocation.guard --parent PID --drain-s 30 --report-fd 5 -- COMMAND...

It adopts whatever its role orphans (Ray's daemons, vLLM's engine), ends it with the role, and ends
the role within ``--drain-s`` when the supervisor asks or is gone. It exits as its role did, by
the same code or the same signal. A parent is the only reliable mark of a role's processes:
programs that retitle themselves write over their environment, and daemons leave their session.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import time
from collections.abc import Callable

from orchestrator import processes

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
HEARD = (*STOP, signal.SIGCHLD)
LEFTOVER_GRACE_S = 0.5
"""What a role left behind gets SIGTERM, and this much later SIGKILL."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command, guard it, and end as it ended."""
    given = _parse(arguments)
    # Blocked, to be taken one by one by sigtimedwait: no handler, hence no race with one.
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    processes.adopt_orphans()
    processes.die_with_parent(given.parent)
    child = start(given.command, given.report_fd)
    status = watch(child, given.drain_s)
    end_leftovers()
    end_like(status)


def start(command: list[str], report_fd: int | None) -> int:
    """Start the command in a session of its own and report its pid and start time."""
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        processes.die_with_parent(guard)
        if report_fd is not None:
            os.close(report_fd)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"error: {command[0]} cannot be run: {error.strerror}.", file=sys.stderr, flush=True)
        os._exit(127)
    if report_fd is not None:
        process = processes.find(child)
        os.write(report_fd, f"{child} {process.start if process else 0.0}\n".encode())
        os.close(report_fd)
    return child


def watch(
    child: int,
    drain_s: float,
    heard: Callable[[int], None] = lambda _number: None,
    must_end: Callable[[], bool] = lambda: False,
) -> int:
    """Wait for the child, passing on requests to stop, and return its wait status.

    The first request starts the clock of ``drain_s``; when it has run out everything is killed.

    Args:
        child: The pid to wait for.
        drain_s: How long it may take to stop.
        heard: Told of every request to stop.
        must_end: Asked about once a second; the child is killed as soon as it says so.
    """
    killed_at = float("inf")
    while True:
        got = signal.sigtimedwait(HEARD, min(1.0, max(0.0, killed_at - time.monotonic())))
        status = reap(child)
        if status is not None:
            return status
        if got is not None and got.si_signo in STOP:
            heard(got.si_signo)
            os.kill(child, got.si_signo)
            killed_at = min(killed_at, time.monotonic() + drain_s)
        if must_end():
            killed_at = min(killed_at, time.monotonic())
        if time.monotonic() >= killed_at:
            processes.kill(processes.descendants(os.getpid()))
            killed_at = time.monotonic() + 1.0  # Again, should one have forked in between.


def reap(child: int) -> int | None:
    """Collect every ended process; return the child's wait status if it was among them."""
    found: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


def end_leftovers() -> None:
    """End all descendants: asked first, killed ``LEFTOVER_GRACE_S`` later, until none is left."""
    left = processes.descendants(os.getpid())
    processes.kill(left, signal.SIGTERM)
    until = time.monotonic() + LEFTOVER_GRACE_S
    while left and time.monotonic() < until:
        signal.sigtimedwait((signal.SIGCHLD,), 0.05)
        reap(-1)
        left = processes.descendants(os.getpid())
    while left:
        processes.kill(left)
        signal.sigtimedwait((signal.SIGCHLD,), 0.05)
        reap(-1)
        left = processes.descendants(os.getpid())


def end_like(status: int) -> None:
    """Exit with the code, or die by the signal, of a wait status."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # The role's own core is enough.
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.allocation.guard")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--drain-s", type=float, required=True)
    parser.add_argument("--report-fd", type=int)
    parser.add_argument("command", nargs="+")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
