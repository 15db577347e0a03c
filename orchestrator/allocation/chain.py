"""The successor of this attempt: queued in advance, told which nodes to avoid, cancelled when not needed.

A job that waits with ``--dependency=afternotok`` starts 0.2 to 3 s after this one has ended, where
``scontrol requeue`` costs 139 s (measured on 22.05), and it does so whatever ended this one: a
preemption, the time limit, a lost node, a kill. Slurm is asked from a thread, because a controller
that is down answers after ten seconds, and the supervisor has more to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.executors import slurm, slurm_commands
from orchestrator.executors.slurm_commands import Job
from orchestrator.ledger import Ledger, read
from orchestrator.plan import Plan
from orchestrator.run_directory import RunDirectory

FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 60.0
LAST_WORD_S = 30.0
"""At the end of an attempt Slurm is given this long to take what is still to be said to it."""


class Chain:
    """Talks to Slurm about the next job of a run."""

    def __init__(self, run: RunDirectory, plan: Plan, ledger: Ledger, job: str) -> None:
        self.job = job
        self.successor = ""
        self.ended_as: Job | None = None
        self._run = run
        self._plan = plan
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chain")
        self._working: tuple[Future[Any], Callable[[Any], None]] | None = None
        self._not_before = 0.0
        self._retry_s = FIRST_RETRY_S
        self._asked = False

    def adopt(self) -> None:
        """Take over the successor that an earlier attempt in this same job has queued: Slurm requeued the job."""
        for event in read(self._run.ledger):
            if event.event == "successor_queued" and str(event.fields["after"]) == self.job:
                self.successor = str(event.fields["job_id"])
            elif event.event == "successor_cancelled" and str(event.fields["job_id"]) == self.successor:
                self.successor = ""

    @property
    def busy(self) -> bool:
        """Whether Slurm is being asked something now."""
        return self._working is not None

    def keep(self) -> None:
        """Collect an answer; queue the successor if there is none."""
        self._collect()
        if self.successor or self.busy or time.monotonic() < self._not_before:
            return
        after, attempt = self.job, self._ledger.generation + 1
        self._begin(lambda: slurm.queue_successor(self._run, self._plan, attempt=attempt, after=after), self._queued)

    def ask_why(self) -> None:
        """Find out, once, what Slurm has to say about this job's end; see ``ended_as``."""
        self._collect()
        if not self._asked and not self.busy:
            self._asked = True
            self._begin(lambda: slurm_commands.show(self.job), self._told)

    def settle(self, *, keep: bool, avoid: tuple[str, ...] = (), pause_s: float = 0.0) -> str:
        """Leave the successor as the end of this attempt wants it; return what could not be done.

        Args:
            keep: Whether there is to be a next attempt.
            avoid: Nodes it must not get.
            pause_s: How long it is to wait.
        """
        until = time.monotonic() + LAST_WORD_S
        while time.monotonic() < until:
            self._collect()
            if not self.busy and (self.successor or not keep):
                break
            if keep:
                self._not_before = min(self._not_before, time.monotonic() + FIRST_RETRY_S)
                self.keep()
            time.sleep(0.05)
        if keep and not self.successor:
            return "No next job could be queued: Slurm did not answer. Continue with `resume`."
        try:
            self._tell(keep=keep, avoid=avoid, pause_s=pause_s)
        except OrchestratorError as error:
            return f"Job {self.successor} could not be told: {error}"
        return ""

    def _tell(self, *, keep: bool, avoid: tuple[str, ...], pause_s: float) -> None:
        if not self.successor:
            return
        if not keep:
            slurm_commands.cancel([self.successor])
            self._ledger.append("successor_cancelled", job_id=self.successor)
            return
        if avoid:
            slurm_commands.exclude(self.successor, avoid)
            self._ledger.append("nodes_excluded", nodes=list(avoid), job_id=self.successor)
        if pause_s:
            slurm_commands.delay(self.successor, pause_s)

    def _begin(self, ask: Callable[[], Any], then: Callable[[Any], None]) -> None:
        self._working = self._thread.submit(ask), then

    def _collect(self) -> None:
        if self._working is None or not self._working[0].done():
            return
        (future, then), self._working = self._working, None
        try:
            answer = future.result()
        except OrchestratorError as error:
            self._not_before = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)
            self._ledger.append("warning", what="Slurm", cause=str(error))
            return
        self._retry_s = FIRST_RETRY_S
        then(answer)

    def _queued(self, job: str) -> None:
        self.successor = job
        self._ledger.append("successor_queued", job_id=job, after=self.job)

    def _told(self, job: Job | None) -> None:
        self.ended_as = job
