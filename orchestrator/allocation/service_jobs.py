"""The jobs of services, in a pair, as the trainer's supervisor sees them: queued when needed, told when not."""

from __future__ import annotations

import time
from collections.abc import Iterable

from orchestrator.allocation import service_job
from orchestrator.allocation.asking import Asking
from orchestrator.allocation.schedule import Phase
from orchestrator.errors import OrchestratorError
from orchestrator.executors import slurm, slurm_commands
from orchestrator.ledger import Ledger, read
from orchestrator.plan import Plan
from orchestrator.run_directory import RunDirectory

LAST_WORD_S = 20.0
"""A submission that is under way when nobody needs it any more is waited for, to be cancelled."""
ASK_EVERY_S = 60.0
"""A job that was queued and does not come is asked for once a minute: somebody may have cancelled it."""


class ServiceJobs:
    """One job for every group but the first."""

    def __init__(self, run: RunDirectory, plan: Plan, ledger: Ledger) -> None:
        roles = [role for role in plan.roles if role.group > 0 and not role.url]
        groups = {number: _Job(run, plan, ledger, number) for number in sorted({role.group for role in roles})}
        self._jobs = {role.name: groups[role.group] for role in roles}
        self._idle: set[str] = set()

    @property
    def busy(self) -> bool:
        """Whether Slurm is being asked something now."""
        return any(job.busy for job in self._jobs.values())

    @property
    def phases(self) -> dict[str, Phase]:
        """The phase of every role that runs in another job."""
        return {role: job.phase for role, job in self._jobs.items()}

    def keep(self, needed: Iterable[str]) -> str:
        """Queue the jobs of the roles that are needed; return why one cannot be had, or nothing."""
        for role in needed:
            if role in self._jobs:
                self._jobs[role].keep()
        return next((job.failed for job in self._jobs.values() if job.failed), "")

    def stop(self, roles: Iterable[str] = ()) -> None:
        """Take note that nobody needs these roles any more, or any; a job ends when none of its roles is needed."""
        self._idle |= set(roles) or set(self._jobs)
        for job in dict.fromkeys(self._jobs.values()):
            if {name for name, other in self._jobs.items() if other is job} <= self._idle:
                job.stop()


class _Job:
    """The jobs of one group, one after the other."""

    def __init__(self, run: RunDirectory, plan: Plan, ledger: Ledger, number: int) -> None:
        self._run = run
        self._plan = plan
        self._number = number
        self._ledger = ledger
        self._name = plan.groups[number].name
        self._asking = Asking(ledger)
        self._asked_at = time.monotonic()
        self._stopped = False
        self._job = self._queued_before()

    @property
    def busy(self) -> bool:
        """Whether Slurm is being asked something now."""
        return self._asking.busy

    @property
    def failed(self) -> str:
        """Why the newest job has given up; empty if it has not."""
        known = service_job.lease(self._run, self._name)
        return known.failed if known is not None and known.job == self._job else ""

    @property
    def phase(self) -> Phase:
        if self._stopped:
            return Phase.STOPPED
        return Phase.RUNNING if self._job else Phase.WAITING

    def keep(self) -> None:
        """Have a job that serves, or that waits to."""
        self._asking.collect()
        if self.failed:
            return
        known = service_job.lease(self._run, self._name)
        if known is not None and known.alive:
            self._job, self._asked_at = known.job, time.monotonic()
        elif known is not None and known.job == self._job:
            self._job = ""  # It has ended, or its lease has run out.
        if not self._asking.due:
            return
        if not self._job:
            (self._run.control / f"stop-{self._name}").unlink(missing_ok=True)
            self._asking.ask(lambda: slurm.queue_service(self._run, self._plan, group=self._number), self._was_queued)
        elif known is None or (known.job != self._job and time.monotonic() - self._asked_at > ASK_EVERY_S):
            self._ask_for_it()

    def stop(self) -> None:
        """Let it end, and take it out of the queue if it is still there."""
        if self._stopped:
            return
        self._stopped = True
        until = time.monotonic() + LAST_WORD_S
        while self.busy and time.monotonic() < until:
            self._asking.collect()
            time.sleep(0.05)
        (self._run.control / f"stop-{self._name}").touch(mode=0o600)
        known = service_job.lease(self._run, self._name)
        if self._job and not (known is not None and known.job == self._job):
            try:
                slurm_commands.cancel([self._job])
            except OrchestratorError as error:
                self._ledger.append("warning", what="Slurm", cause=f"Job {self._job} was not cancelled: {error}")

    def _ask_for_it(self) -> None:
        if time.monotonic() - self._asked_at > ASK_EVERY_S:
            self._asked_at = time.monotonic()
            self._asking.ask(lambda: slurm_commands.show(self._job), self._was_told)

    def _was_told(self, job: slurm_commands.Job | None) -> None:
        if job is None or job.over:
            self._job = ""

    def _was_queued(self, job: str) -> None:
        self._job, self._asked_at = job, time.monotonic()
        self._ledger.append("service_job_queued", group=self._name, job_id=job)

    def _queued_before(self) -> str:
        """Return the job that an earlier attempt has queued and that has not come to its end."""
        events = [event for event in read(self._run.ledger) if event.fields.get("group") == self._name]
        ended = {str(event.fields["job_id"]) for event in events if event.event == "service_job_ended"}
        queued = [str(event.fields["job_id"]) for event in events if event.event == "service_job_queued"]
        return queued[-1] if queued and queued[-1] not in ended else ""
