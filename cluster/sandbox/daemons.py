"""Starting the sandbox's daemons, so that they belong to nobody's shell and can be found again."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.sandbox import members
from cluster.sandbox.errors import SandboxError
from cluster.sandbox.namespaces import Place
from orchestrator import processes

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare", "nsenter")
OWN_NAMES = {"etc", "run", "log", "state", "spool", "dev", "lock", "sandbox.json"}
START_S = 20.0
POLL_S = 0.01
KEY_BYTES = 128
LOG_LINES = 5
SYSTEM_PATH = ":/usr/sbin:/sbin"

# In the background of a shell that ends, so the daemon is init's child and leaves no zombie to us; a session of its
# own, so a Ctrl-C in the shell that brought the sandbox up does not reach it.
BACKGROUND = 'log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 & echo $!'


def check_installed() -> None:
    """Say which programs are missing.

    Raises:
        SandboxError: At least one is.
    """
    missing = [name for name in PROGRAMS if program(name) is None]
    if missing:
        raise SandboxError(f"PATH: no {', '.join(missing)}. Install them: cluster/sandbox/install (Debian, Ubuntu).")


def program(name: str) -> str | None:
    """Return the path of a program; Debian keeps daemons where a user's PATH does not look."""
    return shutil.which(name, path=os.environ.get("PATH", "/usr/bin:/bin") + SYSTEM_PATH)


def start(argv: Sequence[str], folder: Path, part: str) -> int:
    """Start a program in the background and return its pid.

    Args:
        argv: The program; if it is a chain of programs, each replaces itself with the next, so the pid stays.
        folder: The sandbox's folder; the output goes to ``log/<part>.out``.
        part: What of the sandbox it is.
    """
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin") + SYSTEM_PATH,
        "LANG": "C.UTF-8",
        "SLURM_CONF": str(folder / "etc" / "slurm.conf"),
        members.FOLDER_MARK: str(folder),
        members.PART_MARK: part,
    }
    log = folder / "log" / f"{part}.out"
    done = subprocess.run(
        ["sh", "-c", BACKGROUND, "sh", str(log), *argv],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=START_S, check=True,
    )  # fmt: skip
    return int(done.stdout)


def wait_for(ready: Callable[[], bool], pid: int, folder: Path, part: str) -> None:
    """Wait until ``ready`` is true, which the process ``pid``, started as ``part``, is to bring about.

    Raises:
        SandboxError: It is not after 20 s, or the process has ended; with the last lines of its log.
    """
    until = time.monotonic() + START_S
    while not ready():
        process = processes.find(pid)
        ended = process is None or process.ended
        if ended or time.monotonic() >= until:
            fact = "ended at once" if ended else f"not ready after {START_S:.0f} s"
            raise SandboxError(f"{part}: {fact}. {_last_words(folder, part)}")
        time.sleep(POLL_S)


def start_munged(folder: Path, place: Place) -> None:
    """Start the daemon that authenticates messages, with a key of the sandbox's own."""
    key = folder / "etc" / "munge.key"
    descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    path = folder / "run" / "munge.socket"
    argv = [
        "munged", "--foreground", "--force", f"--socket={path}", f"--key-file={key}", "--num-threads=2",
        f"--pid-file={folder}/run/munged.pid", f"--seed-file={folder}/run/munged.seed",
    ]  # fmt: skip
    pid = start(place.as_user(argv, folder), folder, "munged")
    wait_for(lambda: _answers(path), pid, folder, "munged")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _last_words(folder: Path, part: str) -> str:
    lines: list[str] = []
    for path in (folder / "log" / f"{part}.log", folder / "log" / f"{part}.out"):
        if path.exists():
            lines += path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return "\n  ".join(["Its last lines:", *lines]) if lines else f"It said nothing in {folder}/log/."
