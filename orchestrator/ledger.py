"""The ledger: what happened to a run, one fsynced JSON line an event, never rewritten.

It is the truth about a run's state; Slurm's states and process tables are evidence that the
supervisor turns into events. Every event carries the generation of its writer, and a writer
that finds a newer generation in the file must stop (two trainers must never both commit).
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.files import PRIVATE_FILE, sync_folder


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the ledger.

    Attributes:
        at: Unix time, seconds, of the writer's clock. For people; nothing is ordered by it.
        generation: The attempt that wrote it, counted from 1; 0 is the submitting process.
        event: What happened, for example ``"role_started"``.
        fields: The rest of the line.
    """

    at: float
    generation: int
    event: str
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def time(self) -> str:
        return datetime.fromtimestamp(self.at, UTC).isoformat(timespec="seconds")


class Ledger:
    """An append-only file of events, written by one generation."""

    def __init__(self, path: Path, generation: int) -> None:
        self.path = path
        self.generation = generation

    def append(self, event: str, **fields: Any) -> None:
        """Add one event and wait until it is on disk.

        One ``write`` of one line to a file opened with ``O_APPEND``: lines of two writers on one
        node never mix. A torn last line, from a crash inside the write, is cut off by ``read``
        and closed by the next append, which starts on a fresh line.
        """
        record = {"at": round(time.time(), 3), "generation": self.generation, "event": event, **fields}
        new = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
        try:
            prefix = b"" if _ends_whole(descriptor) else b"\n"
            line = prefix + json.dumps(record, allow_nan=False).encode() + b"\n"
            if os.write(descriptor, line) < len(line):
                # The disk became full inside the line, which is no error to the system.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(self.path.parent)


def read(path: Path) -> list[Event]:
    """Return every whole event in the file; an absent file has none.

    A line that is not JSON can only be a write cut short by a crash; it is left out, since the
    event it announced was never acknowledged to anyone.
    """
    return list(_events(path))


def newest_generation(path: Path) -> int:
    """Return the highest generation that ever wrote to the ledger; 0 if none did."""
    return max((event.generation for event in _events(path)), default=0)


def _events(path: Path) -> Iterator[Event]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        yield Event(
            at=record.pop("at"),
            generation=record.pop("generation"),
            event=record.pop("event"),
            fields=record,
        )


def _ends_whole(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
