"""Control groups, with which most sites find the processes of a step.

Every node has a group of its own in the place of the root group, so that nodes, and sandboxes, do not see each other's.
Needs root, and either version 1 with the freezer or version 2.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from cluster.sandbox.addresses import digest
from cluster.sandbox.errors import SandboxError
from cluster.sandbox.namespaces import Route
from cluster.sandbox.options import Proctrack

ROOT = Path("/sys/fs/cgroup")
FREEZER = ROOT / "freezer"
REMOVE_S = 3.0
"""A group whose last process was killed is busy for a moment longer."""
POLL_S = 0.02


def plugin(wanted: Proctrack, route: Route) -> str:
    """Return the name of the proctrack plugin to use.

    Raises:
        SandboxError: Control groups are wanted, and there are none that we may use.
    """
    if wanted not in ("auto", "cgroup"):
        return wanted
    usable = route == "root" and _hierarchy() is not None
    if wanted == "cgroup" and not usable:
        raise SandboxError(
            f"proctrack=cgroup: needs root, a network per node, and {FREEZER} or cgroup version 2 at {ROOT} writable. "
            "Take proctrack=pgid."
        )
    return "cgroup" if usable else "pgid"


def configuration(proctrack: str) -> str:
    """Return cgroup.conf."""
    if proctrack != "cgroup":
        return ""
    version = "v1" if _hierarchy() == FREEZER else "v2"
    return f"CgroupPlugin=cgroup/{version}\nCgroupMountpoint={ROOT}\nIgnoreSystemd=yes\n"


def make(folder: Path, node: str) -> tuple[tuple[Path, Path], ...]:
    """Make a node's group and return what the node must mount over what."""
    root = _hierarchy()
    assert root is not None
    group = root / _name(folder) / node
    group.mkdir(parents=True)
    return ((group, root),)


def remove(folder: Path) -> list[Path]:
    """Remove all groups of a sandbox, whose processes are gone, and return those that are left."""
    root = _hierarchy()
    if root is None or not (root / _name(folder)).exists():
        return []
    until = time.monotonic() + REMOVE_S
    while left := _remove_once(root / _name(folder)):
        if time.monotonic() >= until:
            break
        time.sleep(POLL_S)
    return left


def thaw(folder: Path) -> None:
    """Let frozen processes run; a frozen one does not even die (version 1)."""
    for state in (FREEZER / _name(folder)).rglob("freezer.state"):
        try:
            state.write_text("THAWED", encoding="ascii")
        except OSError:
            continue  # Slurm removed the group meanwhile.


def _hierarchy() -> Path | None:
    if (FREEZER / "cgroup.procs").exists():
        return FREEZER if os.access(FREEZER, os.W_OK) else None
    return ROOT if (ROOT / "cgroup.procs").exists() and os.access(ROOT, os.W_OK) else None


def _remove_once(top: Path) -> list[Path]:
    left = []
    for path, _, _ in os.walk(top, topdown=False):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue
        except OSError:
            left.append(Path(path))
    return left


def _name(folder: Path) -> str:
    return f"orch-sandbox-{digest(folder)}"
