"""The successor of this attempt: queued in advance, told which nodes to avoid, cancelled when not needed.

A job that waits with ``--dependency=afternotok`` starts 0.2 to 3 s after this one has ended, where
``scontrol requeue`` costs 139 s (measured on 22.05), and it does so whatever ended this one: a
preemption, the time limit, a lost node, a kill.
"""

from __future__ import annotations

import time

from orchestrator.allocation.asking import FIRST_RETRY_S, Asking
from orchestrator.errors import OrchestratorError
from orchestrator.executors import slurm, slurm_commands
from orchestrator.executors.slurm_commands import Job
from orchestrator.ledger import Ledger, read
from orchestrator.plan import Plan
from orchestrator.run_directory import RunDirectory

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
        self._asking = Asking(ledger)
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
        return self._asking.busy

    def keep(self) -> None:
        """Collect an answer; queue the successor if there is none."""
        self._asking.collect()
        if self.successor or not self._asking.due:
            return
        attempt = self._ledger.generation + 1
        self._asking.ask(
            lambda: slurm.queue_successor(self._run, self._plan, attempt=attempt, after=self.job), self._queued
        )

    def ask_why(self) -> None:
        """Find out, once, what Slurm has to say about this job's end; see ``ended_as``."""
        self._asking.collect()
        if not self._asked and not self.busy:
            self._asked = True
            self._asking.ask(lambda: slurm_commands.show(self.job), self._told)

    def settle(self, *, keep: bool, avoid: tuple[str, ...] = (), pause_s: float = 0.0) -> str:
        """Leave the successor as the end of this attempt wants it; return what could not be done.

        Args:
            keep: Whether there is to be a next attempt.
            avoid: Nodes it must not get.
            pause_s: How long it is to wait.
        """
        until = time.monotonic() + LAST_WORD_S
        while time.monotonic() < until:
            self._asking.collect()
            if not self.busy and (self.successor or not keep):
                break
            if keep:
                self._asking.not_before = min(self._asking.not_before, time.monotonic() + FIRST_RETRY_S)
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
            # Slurm's list is replaced, not added to, and the leader's goes for all components.
            known = [node for group in self._plan.groups for node in group.options.get("exclude", ())]
            slurm_commands.exclude(self.successor, tuple(dict.fromkeys([*known, *avoid])))
            self._ledger.append("nodes_excluded", nodes=list(avoid), job_id=self.successor)
        if pause_s:
            slurm_commands.delay(self.successor, pause_s)

    def _queued(self, job: str) -> None:
        self.successor = job
        self._ledger.append("successor_queued", job_id=job, after=self.job)

    def _told(self, job: Job | None) -> None:
        self.ended_as = job
