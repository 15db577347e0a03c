"""The job of one group of services, in a pair: it serves through all attempts of the trainer's job.

    python -m orchestrator.allocation.supervisor --run-dir DIR --group 1

It keeps its services running as any supervisor does, renews a lease, and ends when the run has ended,
when it is asked to, or when no trainer has been there for ``HOLD_S``. It queues no successor: the
trainer's supervisor queues the next such job when it needs one.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass, replace
from types import FrameType

from orchestrator import control, ledger, submission_environment
from orchestrator.allocation import batch_job, launch
from orchestrator.allocation.batch_job import BatchJob
from orchestrator.allocation.crew import Crew, Listener
from orchestrator.allocation.diagnosis import Watch
from orchestrator.allocation.job_steps import InThisJob
from orchestrator.allocation.schedule import GiveUp
from orchestrator.errors import ConflictError
from orchestrator.files import private_folder, read_json, write_json
from orchestrator.ledger import Ledger
from orchestrator.plan import Plan
from orchestrator.rendezvous import LOOPBACK, OWN_JOB
from orchestrator.run_directory import RunDirectory

TICK_S = 0.1
RENEW_EVERY_S = 5.0
LEASE_S = 30.0
HOLD_S = 900.0
"""A judge that took minutes to load waits for so long for a trainer that was preempted."""
HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
DRAINED = 75


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What the job says of itself.

    Attributes:
        job: Its id.
        host: The node of its batch script.
        until: Unix time, seconds; later than this nothing of it is to be believed.
        failed: Why it has given up; empty if it has not.
    """

    job: str
    host: str
    until: float
    failed: str = ""

    @property
    def alive(self) -> bool:
        return time.time() < self.until and not self.failed


def lease(run: RunDirectory, group: str) -> Lease | None:
    """Return what the newest job of the group says of itself; None if there was none."""
    found = read_json(run.service_job(group))
    return Lease(**found) if found is not None else None


def serve(run: RunDirectory, plan: Plan, number: int) -> int:
    """Serve the services of one group, and return the exit code.

    Raises:
        ConflictError: Another job serves them.
    """
    submission_environment.restore(run, os.environ)
    job = batch_job.here(plan, group=number)
    assert job is not None, "only the script of a plan for Slurm says --group"
    job = replace(job, address=_address(run, job))
    os.environ["ORCH_LEADER"] = job.address
    name = plan.groups[number].name
    other = lease(run, name)
    if other is not None and other.alive and other.job != job.id:
        raise ConflictError(f"run: job {other.job} on {other.host} serves {name} already. Cancel it first.")
    return ServiceJob(run, plan, number, job).run()


def _address(run: RunDirectory, job: BatchJob) -> str:
    """Return the address under which the trainer's job reaches us, which is another job on other nodes.

    Without a trainer elsewhere, that of our own name; and where that is a loopback, as on many a Debian, that
    of the default route.
    """
    owner = control.newest_owner(run)
    if owner is not None and owner.host != socket.gethostname():
        return batch_job.address_towards((owner.host,))
    if job.address != LOOPBACK:
        return job.address
    own = socket.gethostbyname(socket.gethostname())
    return batch_job.address_towards(("192.0.2.1",)) if own.startswith("127.") else own


class ServiceJob:
    """Runs the services of one group until nobody needs them."""

    def __init__(self, run: RunDirectory, plan: Plan, number: int, job: BatchJob) -> None:
        self._run = run
        self._name = plan.groups[number].name
        self._job = job
        attempt = ledger.newest_generation(run.ledger)
        # Of no attempt: its endpoints are believed by their lease alone, since it outlives attempts.
        self._ledger = Ledger(run.ledger, attempt)
        folder = private_folder(run.attempt(max(attempt, 1)))
        launch.write_output_to(folder / f"services-{self._name}.log")
        roles = tuple(role for role in plan.roles if role.group == number and not role.url)
        launcher = InThisJob(run, plan, OWN_JOB, job, folder=folder)
        listener = Listener(ended=lambda: None, drained=self._drained, gave_up=self._gave_up)
        self._crew = Crew(run, plan, roles, OWN_JOB, launcher, self._ledger, Watch(folder), listener)
        self._signals: list[int] = []
        self._code: int | None = None
        self._failed = ""
        self._renewed = self._wanted = time.monotonic()

    def run(self) -> int:
        """Serve, and return 0 if nobody needs it any more, 75 if Slurm wants the nodes, 1 if it cannot be kept up."""
        for number in HEARD:
            signal.signal(number, self._record)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
        self._ledger.append("service_job_started", job_id=self._job.id, group=self._name, host=socket.gethostname())
        self._renew(LEASE_S)
        while self._code is None or self._crew.running:
            self._tick()
            time.sleep(TICK_S)
        self._renew(0.0)
        self._ledger.append("service_job_ended", job_id=self._job.id, group=self._name, exit_code=self._code)
        return self._code

    def _tick(self) -> None:
        self._crew.collect()
        if self._code is None:
            self._code = self._why_end()
        if self._code is None:
            self._crew.start(lambda _role: True)
        else:
            self._crew.stopping = True
            self._crew.stop_next()
        if time.monotonic() - self._renewed >= RENEW_EVERY_S and self._code is None:
            self._renew(LEASE_S)

    def _why_end(self) -> int | None:
        if self._signals:
            return DRAINED
        state = control.state(self._run)
        if state.pid is not None:
            self._wanted = time.monotonic()
        if state.ended and state.state not in ("DRAINED", "LOST"):
            return 0
        if (self._run.control / f"stop-{self._name}").exists():
            return 0
        if time.monotonic() - self._wanted > HOLD_S:
            print(f"No trainer of {self._run.name} has been there for {HOLD_S:g} s.", file=sys.stderr, flush=True)
            return 0
        return None

    def _renew(self, lasts_s: float) -> None:
        self._renewed = time.monotonic()
        found = Lease(job=self._job.id, host=socket.gethostname(), until=time.time() + lasts_s, failed=self._failed)
        write_json(self._run.service_job(self._name), asdict(found))

    def _record(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _drained(self, _by: str, _cause: str) -> None:
        self._code = DRAINED if self._code is None else self._code

    def _gave_up(self, step: GiveUp, cause: str, _code: int) -> None:
        self._failed = f"{step.cause} Last: {cause}"
        self._code = 1
