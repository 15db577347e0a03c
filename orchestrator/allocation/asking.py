"""Questions to Slurm, asked from a thread: one that is down answers after ten seconds, and the loop goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.ledger import Ledger

FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 60.0


class Asking:
    """One question at a time; after one that failed a pause, doubled each time.

    Attributes:
        not_before: Monotonic time before which nothing is asked that can wait.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.not_before = 0.0
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="slurm")
        self._retry_s = FIRST_RETRY_S
        self._question: tuple[Future[Any], Callable[[Any], None]] | None = None

    @property
    def busy(self) -> bool:
        """Whether Slurm is being asked something now."""
        return self._question is not None

    @property
    def due(self) -> bool:
        """Whether something may be asked now."""
        return not self.busy and time.monotonic() >= self.not_before

    def ask(self, question: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Begin to ask; ``then`` gets the answer, in ``collect``."""
        self._question = self._thread.submit(question), then

    def collect(self) -> None:
        """Hand on the answer if there is one; an error is recorded, and asked again after a pause."""
        if self._question is None or not self._question[0].done():
            return
        (future, then), self._question = self._question, None
        try:
            answer = future.result()
        except (OrchestratorError, OSError) as error:  # A full disk must not end the run.
            self.not_before = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)
            self._ledger.append("warning", what="Slurm", cause=str(error))
            return
        self._retry_s = FIRST_RETRY_S
        then(answer)
