"""The fence: whether a newer attempt of the run has begun, so that this process may write no more.

A node that was cut off from the cluster goes on computing for a minute while the run continues
elsewhere; what it writes then would mix two histories.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from orchestrator.errors import ConflictError
from orchestrator.rendezvous import OWN_JOB


class Fence:
    """Watches the ledger for a generation newer than ours. Asking again costs one look at the file's size."""

    def __init__(self, ledger: Path, generation: int) -> None:
        self._ledger = ledger
        self._generation = generation
        self._newest = 0
        self._read = 0

    def check(self) -> None:
        """Return if this attempt is the newest.

        Raises:
            ConflictError: A newer attempt has begun.
        """
        self._look()
        if self._newest > self._generation != OWN_JOB:
            raise ConflictError(
                f"ledger: attempt {self._newest} of this run has begun; attempt {self._generation} may not write any "
                "more. This process ends; nothing is to be done."
            )

    def _look(self) -> None:
        # Opened each time: on a network filesystem only an open asks the server how long the file is.
        try:
            descriptor = os.open(self._ledger, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            size = os.fstat(descriptor).st_size
            if size > self._read:
                self._take(os.pread(descriptor, size - self._read, self._read))
        finally:
            os.close(descriptor)

    def _take(self, new: bytes) -> None:
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                self._newest = max(self._newest, int(json.loads(line)["generation"]))
            except ValueError:
                continue  # Torn by a crash inside the write; it was never acknowledged to anyone.
