"""What this machine has: CPU cores, memory and GPUs, found without torch and without touching a device."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NVIDIA_SMI_TIMEOUT_S = 10
GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The resources of one node.

    Attributes:
        cpus: CPU cores that this process may use.
        memory_gb: Memory that this process may use, GiB.
        gpus: NVIDIA GPUs that this process may see.
    """

    cpus: int
    memory_gb: float
    gpus: int


def here() -> Machine:
    """Return what this process may use, which a container may have made less than what is built in."""
    return Machine(cpus=_cpus(), memory_gb=_memory_gb(), gpus=_gpus())


def _cpus() -> int:
    allowed = len(os.sched_getaffinity(0))
    quota = _first_line(Path("/sys/fs/cgroup/cpu.max")).split()
    if len(quota) == 2 and quota[0].isdigit():
        return max(1, min(allowed, int(quota[0]) // int(quota[1])))
    return allowed


def _memory_gb() -> float:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _first_line(Path("/sys/fs/cgroup/memory.max"))
    return round(min(total, int(limit) if limit.isdigit() else total) / GIB, 1)


def _gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = _devices()
    if visible is None:
        return present
    wanted = [device for device in visible.split(",") if device.strip() not in ("", "-1")]
    return min(present, len(wanted))


def _devices() -> int:
    driver = Path("/proc/driver/nvidia/gpus")
    if driver.is_dir():
        return len(list(driver.iterdir()))
    if shutil.which("nvidia-smi") is None:
        return 0
    # Some containers and WSL hide the driver's folder but have the tool.
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0  # a tool that cannot be run, or hangs on a lost device, shows no GPU that we could use
    return listed.stdout.count("GPU ") if listed.returncode == 0 else 0


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").partition("\n")[0]
    except OSError:
        return ""  # no such limit on this machine
