"""The preloaded library from Python: how it is built, preloaded and told what to do."""

from __future__ import annotations

import ctypes
import enum
import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
WORDS = ("cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror")


class Mode(enum.IntEnum):
    """What happens at the call; the numbers are those of shim.c."""

    COUNT = 0
    KILL_BEFORE = 1
    """The process is killed before the call."""
    KILL_AFTER = 2
    """And right after it."""
    TEAR = 3
    """Half of a write is done, then the process is killed. Of writes only."""
    NO_SPACE = 4
    """The disk is full from then on. A write that fills it is done in half and says so."""
    IO_ERROR = 5
    """The call fails once with EIO."""
    POWER_LOSS = 6
    """As ``KILL_BEFORE``, and every byte is gone that was not synced."""

    @property
    def kills(self) -> bool:
        return self not in (Mode.COUNT, Mode.NO_SPACE, Mode.IO_ERROR)


FAULTS = tuple(mode for mode in Mode if mode is not Mode.COUNT)


def build(folder: Path) -> Path:
    """Compile the library into ``folder``."""
    library = folder / "shim.so"
    subprocess.run([*WORDS, "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


def preload(library: Path) -> dict[str, str]:
    """Return the environment of a process that has the library."""
    return os.environ | {"LD_PRELOAD": str(library)}


def arm(folder: Path, at: int, mode: Mode, trace: int = -1) -> None:
    """Count calls below ``folder`` from now on, in this process.

    Args:
        folder: Absolute, without symbolic links.
        at: The call that gets the fault, from 1; with 0 none does.
        mode: The fault.
        trace: A descriptor that is told every call, ``operation path`` and a newline.
    """
    _library().arm(os.fsencode(folder), ctypes.c_long(at), int(mode), trace)


def disarm() -> None:
    """Leave this process alone again."""
    _library().arm(b"", ctypes.c_long(0), int(Mode.COUNT), -1)


def lose_power() -> None:
    """Drop every byte that was not synced since ``arm``, and die."""
    _library().lose_power()


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
