"""How the nodes of a role find the Ray of its first node: one small file in the role's folder.

The driver, on the node of rank 0, publishes where its Ray listens and which file holds the token; it
marks the file when it has ended. A file that is not ours alone or of another attempt is ignored.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

from orchestrator.files import PRIVATE_FILE, private_folder, read_json, write_json
from orchestrator.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Head:
    """A Ray that other nodes may join.

    Attributes:
        address: ``host:port`` of its control service.
        generation: The attempt that started it.
        nonce: Drawn for this start; another one is another Ray.
        token_file: Path of the 0600 file that holds its token. Never the token itself.
        step: The Slurm job step that the driver belongs to, ``"501.3"``; empty without Slurm.
        released: The driver has ended, or is about to, and needs no other node any more.
    """

    address: str
    generation: int
    nonce: str
    token_file: str
    step: str = ""
    released: bool = False


def place(run: RunDirectory, role: str) -> Path:
    """Return where the head of a role is published."""
    return run.role(role) / "ray.json"


@contextmanager
def chaired(path: Path, generation: int) -> Iterator[None]:
    """Hold the driver's end of the meeting: however it ends, no node waits for it in vain.

    What a killed driver left is removed first, since nobody is to join what is gone.
    """
    private_folder(path.parent)
    path.unlink(missing_ok=True)
    try:
        yield
    finally:
        known = read_json(path)
        if known is None or not known["released"]:
            nobody = Head(address="", generation=generation, nonce=uuid4().hex, token_file="", step=own_step())
            release(path, nobody)


def release(path: Path, head: Head) -> None:
    """Let our nodes go; those of a newer attempt that meet here by now are not ours to send home."""
    known = read_json(path)
    if known is None or known["generation"] <= head.generation:
        publish(path, replace(head, released=True))


def publish(path: Path, head: Head) -> None:
    """Let the other nodes join, or go."""
    write_json(path, asdict(head))


def own_step() -> str:
    """Return the job step that this process was started in; empty without Slurm."""
    job, step = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_STEP_ID")
    return f"{job}.{step}" if job and step else ""


def find(path: Path, generation: int) -> Head | None:
    """Return the published head, or None if there is none of this attempt to be trusted."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    private = stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == PRIVATE_FILE
    record = read_json(path) if private and status.st_uid == os.getuid() else None
    if record is None or record["generation"] != generation:
        return None
    return Head(**record)
