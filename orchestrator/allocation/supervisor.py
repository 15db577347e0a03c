"""The supervisor: starts the roles of a plan in order, keeps them running, drains them, and ends.

    python -m orchestrator.allocation.supervisor --run-dir runs/geo3k

One loop, one thread. Signal handlers only record; the loop acts. Three channels (a signal, the
file ``control/cancel.json``, the clock against the plan's time limit) meet in one drain, which
may be asked for any number of times. Every role runs under its own ``guard``, so the end of a
role, or of this process, leaves nothing behind.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from orchestrator import control, plan, processes, rendezvous, submission_environment
from orchestrator.allocation import (
    batch_job,
    fence,
    final_report,
    history,
    launch,
    lost_attempts,
    schedule,
    step,
    sweep,
)
from orchestrator.allocation.batch_job import BatchJob
from orchestrator.allocation.crew import Crew, Listener
from orchestrator.allocation.diagnosis import Watch
from orchestrator.allocation.ending import Ending
from orchestrator.allocation.gateway_process import GatewayProcess
from orchestrator.allocation.schedule import Phase
from orchestrator.errors import ConflictError, NotFound, OrchestratorError
from orchestrator.files import read_json
from orchestrator.ledger import Ledger, newest_generation, read
from orchestrator.plan import Role
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory

if TYPE_CHECKING:
    from orchestrator.allocation.chain import Chain
    from orchestrator.allocation.service_jobs import ServiceJobs

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
TICK_S = 0.1
OWN_EVERY_S = 5.0
DRAIN_MARGIN_S = 30.0
"""Slurm looks for jobs at their time limit every 30 s, and may be early by as much."""
SETTLE_S = 3 * step.LOOK_EVERY_S
"""Tasks of an attempt that lives on a cut-off node notice within this time that a newer one exists."""


class Supervisor:
    """Runs one attempt of one plan; ``run`` returns the exit code."""

    def __init__(self, run: RunDirectory, generation: int, job: BatchJob | None = None) -> None:
        self.run_directory = run
        self.generation = generation
        self.plan = plan.load(run.plan)
        self.job = job
        self.ledger = Ledger(run.ledger, generation)
        self.progress = Progress(run.progress, "run")
        self.watch = Watch(run.attempt(generation))
        self.chain = self._chain(job) if job else None
        self.crew = self._crew()
        address = job.address if job else rendezvous.LOOPBACK
        self.gateway = GatewayProcess(run, generation, self.ledger, address) if self._has_services() else None
        self.services = self._service_jobs() if self.plan.placement.kind == "pair" else None
        self.ending: Ending | None = None
        self._signals: list[int] = []
        self._told_kind = ""
        self._began = time.monotonic()
        self._owned = 0.0

    def run(self) -> int:
        """Supervise until all is done or drained, and return the run's exit code."""
        self._listen()
        processes.adopt_orphans()
        self._say_hello()
        if self.chain is None:
            self._sweep()
        else:
            self.chain.adopt()
            self.chain.keep()  # First of all: until a successor waits, a lost node would end the run.
            self._check_history()
        self._make_keys()
        self.crew.remember_successes()
        while not self._over():
            self._tick()
            time.sleep(TICK_S)
        return self._finish()

    # What the loop does.

    def _tick(self) -> None:
        if self.chain is not None and (self.ending is None or self.ending.state == "DRAINED"):
            self.chain.keep()
        self._look()
        self._check_drain_requests()
        self.crew.collect()
        view = self._view()
        if self.ending is None:
            self.crew.start(lambda role: schedule.may_start(self.plan, role, view))
            for name in schedule.to_stop(self.plan, view):
                self.crew.stop(name)
            if self.services is not None:
                self._keep_services(self.services, view)
        else:
            self._drain()
        if self.gateway is not None:
            self._keep_gateway()
        self._say(view)

    def _over(self) -> bool:
        anyone = self.crew.running or (self.gateway is not None and self.gateway.running)
        if self.ending is not None:
            return not anyone
        if schedule.finished(self.plan, self._view()):
            self.ending = Ending(state="SUCCEEDED", cause="")
        return False

    def _gave_up(self, given_up: schedule.GiveUp, cause: str, code: int) -> None:
        if self._newer_exists():
            self._check_generation()
            return
        self._request_drain("failure", self._next_rung(given_up, f"{given_up.cause} Last: {cause}", code))

    def _next_rung(self, given_up: schedule.GiveUp, cause: str, code: int) -> Ending:
        """Return how the attempt is to end now that restarts in place have not helped.

        In a Slurm job the next rung of the ladder is another job, on other nodes if these are to blame,
        as long as the run's budgets last. Wrong input is wrong everywhere.
        """
        final = Ending(state=given_up.state, cause=cause, kind="crash")
        if self.chain is None or code == schedule.WRONG_INPUT:
            return final
        stop = history.verdict(self.plan.restarts, self._attempts(kind="crash"))
        if stop is not None:
            return Ending(state=stop.state, cause=f"{stop.cause} {cause}", kind="crash")
        return Ending(state="DRAINED", cause=cause, kind="crash")

    # Earlier attempts.

    def _say_hello(self) -> None:
        known = {} if self.job is None else {"job_id": self.job.id, "nodes": list(self.job.nodes.everyone)}
        self.ledger.append(
            "attempt_started", attempt=self.generation, pid=os.getpid(), host=socket.gethostname(), **known
        )

    def _check_history(self) -> None:
        """Find out how attempts ended that could not say so, and whether there may be one more."""
        for attempt in self._attempts()[:-1]:
            if not attempt.ended and attempt.kind == history.UNKNOWN and attempt.job:
                kind, cause, ended_at = lost_attempts.ask(attempt.job)
                known = {"attempt": attempt.number, "kind": kind, "job_id": attempt.job, "cause": cause}
                self.ledger.append("attempt_lost", **known, ended_at=ended_at)
        earlier = self._attempts()[:-1]
        if earlier and earlier[-1].kind == "cancelled" and not earlier[-1].ended:
            cause = f"Job {earlier[-1].job} was cancelled with scancel."
            self._request_drain("scancel", Ending(state="CANCELLED", cause=cause, kind="cancelled"))
            return
        stop = history.verdict(self.plan.restarts, earlier)
        if stop is not None:
            self._request_drain("budget", Ending(state=stop.state, cause=stop.cause, kind="crash"))

    def _attempts(self, kind: str = "") -> list[history.Attempt]:
        """Return all attempts, the last one this; ``kind`` is how this one is about to end."""
        submitted = read_json(self.run_directory.run) or {}
        everything = history.attempts(read(self.run_directory.ledger))
        found = history.since_submitted(everything, str(submitted.get("job_id", "")))
        return [*found[:-1], replace(found[-1], kind=kind)] if kind else found

    # Services and the gateway.

    def _make_keys(self) -> None:
        """Make every key before anybody reads one, so that nobody reads half of it."""
        for role in self.plan.roles:
            if role.kind == "service":
                rendezvous.api_key(self.run_directory, role.name)
                rendezvous.api_key(self.run_directory, f"{role.name}-backend")

    def _has_services(self) -> bool:
        return any(role.kind == "service" for role in self.plan.roles)

    def _keep_gateway(self) -> None:
        assert self.gateway is not None
        if self.ending is not None and not self.crew.running:
            self.gateway.stop()
        failure = self.gateway.keep(restart=self.ending is None or self.crew.running)
        if failure and self.ending is None:
            self.watch.note("gateway", failure)
            self._request_drain("failure", Ending(state="FAILED", cause=failure, kind="crash"))

    def _is_ours(self, role: Role) -> bool:
        """Whether the role runs in this job; of a pair, those of other groups run in theirs."""
        return self.plan.placement.kind != "pair" or role.group == 0 or bool(role.url)

    def _keep_services(self, services: ServiceJobs, view: schedule.View) -> None:
        """Have the other jobs of a pair that are needed now, and let go those that are not any more."""
        theirs = [role for role in self.plan.roles if not self._is_ours(role)]
        idle = {name for name in services.phases if name in schedule.to_stop(self.plan, view)}
        if idle:
            services.stop(idle)
        wanted = [role for role in theirs if schedule.wanted(self.plan, role, view)]
        failure = services.keep(role.name for role in wanted if not schedule.blockers(role, view))
        if failure:
            self.watch.note("services", failure)
            self._request_drain("failure", Ending(state="FAILED", cause=failure, kind="crash"))

    # Stopping.

    def _listen(self) -> None:
        for number in HEARD:
            signal.signal(number, self._record)
        # They are blocked since the start of a Slurm job, so that none came before somebody listened.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)

    def _record(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _check_drain_requests(self) -> None:
        request = read_json(control.cancel_file(self.run_directory))
        if request is not None:
            by = str(request.get("by", "cancel"))
            self._request_drain(by, Ending(state="CANCELLED", cause=f"Cancelled by {by}.", kind="cancelled"))
        while self._signals:
            name = signal.Signals(self._signals.pop(0)).name
            self._asked_by_signal(name, f"Asked to stop by {name}.")
        if self._time_is_up():
            limit = f"The time limit of {self.plan.time_limit_s} s is reached."
            self._request_drain("time limit", Ending(state="DRAINED", cause=limit, kind="time_limit"))

    def _asked_by_signal(self, by: str, cause: str) -> None:
        """Drain; whether it is a preemption, the time limit or a person, Slurm is asked meanwhile."""
        self._request_drain(by, Ending(state="DRAINED", cause=cause, kind="drained" if self.chain is None else ""))

    def _time_is_up(self) -> bool:
        """Whether it is time to drain: in a Slurm job early enough to have drained when Slurm kills."""
        if self.job is None:
            return self.elapsed_s >= self.plan.time_limit_s
        longest_s = max(role.drain_s for role in self.plan.roles)
        lead_s = min(longest_s + DRAIN_MARGIN_S, self.plan.time_limit_s / 4)
        return time.time() >= self.job.ends_at - lead_s

    def _request_drain(self, by: str, ending: Ending) -> None:
        """Begin to drain, or, drained already by something weaker than a person, note the new reason."""
        if self.ending is None or (ending.state == "CANCELLED" and self.ending.state == "DRAINED"):
            self.ending = ending
            self.crew.stopping = True
            self.ledger.append("drain_requested", by=by)

    def _drain(self) -> None:
        assert self.ending is not None
        if self.chain is not None and not self.ending.kind:
            self.chain.ask_why()
            self._record_why(self.chain)
        self.crew.stop_next()

    def _finish(self) -> int:
        assert self.ending is not None
        done = schedule.finished(self.plan, self._view())
        ending = Ending(state="SUCCEEDED", cause="", kind="done") if done else self._understood(self.ending)
        if done:
            self._report()
        if self.chain is not None:
            self._leave_chain(ending)
        found = self.watch.earliest() if ending.state in ("FAILED", "CRASH_LOOP") else None
        diagnosis = str(found) if found else ""
        self.ledger.append(
            "run_finished", state=ending.state, kind=ending.kind, cause=ending.cause, diagnosis=diagnosis
        )
        control.disown(self.run_directory, self.generation)
        self.progress.update(ending.state.lower(), message=ending.cause)
        if ending.state != "SUCCEEDED":
            earliest = f"\nThe earliest error:\n{diagnosis}" if diagnosis else ""
            print(f"error: {ending.cause}{earliest}", file=sys.stderr, flush=True)
        return control.EXIT_CODES[ending.state]

    def _record_why(self, chain: Chain) -> None:
        """Write down why Slurm stops us as soon as it is known: the drain may be cut short, and Slurm forgets."""
        if chain.ended_as is not None and self.job is not None and not self._told_kind:
            self._told_kind, _ = lost_attempts.kind_of_end(chain.ended_as, ends_in_s=self.job.ends_at - time.time())
            self.ledger.append("drain_understood", kind=self._told_kind)

    def _understood(self, ending: Ending) -> Ending:
        """Return the ending with its kind, by what Slurm has said of this job's end."""
        if self.chain is None or self.job is None or ending.kind:
            return ending
        self.chain.ask_why()
        kind, why = lost_attempts.kind_of_end(self.chain.ended_as, ends_in_s=self.job.ends_at - time.time())
        state = "CANCELLED" if kind == "cancelled" else ending.state
        return Ending(state=state, cause=f"{ending.cause} {why}".strip(), kind=kind)

    def _leave_chain(self, ending: Ending) -> None:
        """Leave the next job waiting, told what to avoid, or cancel it."""
        assert self.chain is not None
        if ending.kind == history.SUPERSEDED or self._newer_exists():
            return  # The next job is not waiting any more, it is what has taken over.
        events = read(self.run_directory.ledger)
        earlier = self._attempts(kind=ending.kind)
        if self.services is not None and ending.state != "DRAINED":
            self.services.stop()
        failed = self.chain.settle(
            keep=ending.state == "DRAINED",
            avoid=history.blamed(events),
            pause_s=history.pause_s(earlier, float(self.plan.profile.get("crash_pause_s", 60.0))),
        )
        if failed:
            self.ledger.append("warning", what="Slurm", cause=failed)

    def _report(self) -> None:
        asked = control.cancel_file(self.run_directory)
        why_not = final_report.write(
            self.run_directory, self.generation, self.progress, lambda: bool(self._signals) or asked.exists()
        )
        if why_not:
            self.ledger.append("warning", what="report", cause=why_not)

    # What is known.

    def _view(self) -> schedule.View:
        view = self.crew.view()
        if self.services is None:
            return view
        lookup = rendezvous.lookup
        theirs = self.services.phases
        ready = {name for name in theirs if lookup(self.run_directory, name, generation=self.generation) is not None}
        return schedule.View(phases={**view.phases, **theirs}, ready=view.ready | ready)

    def _service_jobs(self) -> ServiceJobs:
        from orchestrator.allocation.service_jobs import ServiceJobs

        return ServiceJobs(self.run_directory, self.plan, self.ledger)

    def _chain(self, job: BatchJob) -> Chain:
        from orchestrator.allocation.chain import Chain  # brings submitit along, which a laptop's run can do without

        return Chain(self.run_directory, self.plan, self.ledger, job.id)

    def _crew(self) -> Crew:
        listener = Listener(ended=self._end_orphans, drained=self._asked_by_signal, gave_up=self._gave_up)
        return Crew(
            self.run_directory,
            self.plan,
            tuple(role for role in self.plan.roles if self._is_ours(role)),
            self.generation,
            self._launcher(),
            self.ledger,
            self.watch,
            listener,
        )

    def _launcher(self) -> launch.Launcher:
        if self.job is None:
            return launch.OnThisMachine(self.run_directory, self.generation)
        from orchestrator.allocation.job_steps import InThisJob  # brings pydantic along

        return InThisJob(self.run_directory, self.plan, self.generation, self.job)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def _sweep(self) -> None:
        stubborn = sweep.sweep(self.run_directory)
        if stubborn:
            pids = ", ".join(str(process.pid) for process in stubborn)
            self.ledger.append("warning", what="leftovers", cause=f"Not even SIGKILL ended {pids}.")

    def _end_orphans(self) -> None:
        """Kill what a killed guard left to us, and collect it."""
        if (self.chain is not None and self.chain.busy) or (self.services is not None and self.services.busy):
            return  # What it runs is a child of ours as well. The next end of a role will do.
        guards = self.crew.guards | ({self.gateway.guard_pid} if self.gateway is not None else set())
        me = os.getpid()
        for child in (process for process in processes.everyone() if process.parent == me):
            if child.pid not in guards:
                processes.kill([*processes.descendants(child.pid), child])
                processes.wait_gone([child], 2.0)
                os.waitpid(child.pid, os.WNOHANG)

    def _look(self) -> None:
        """Every few seconds: renew the lease, look for a newer attempt."""
        now = time.monotonic()
        if now - self._owned >= OWN_EVERY_S:
            self._owned = now
            self._renew()
            self._check_generation()

    def _renew(self) -> None:
        try:
            if not self._newer_exists():
                control.own(self.run_directory, self.generation, self.job.id if self.job else "")
        except OSError as error:  # A full disk must not end the run; on this host the lock is enough.
            print(f"warning: the lease was not renewed: {error}", file=sys.stderr, flush=True)

    def _check_generation(self) -> None:
        if self._newer_exists() and self.ending is None:
            cause = "A newer attempt has taken over."
            self._request_drain("a newer attempt", Ending(state="DRAINED", cause=cause, kind=history.SUPERSEDED))

    def _newer_exists(self) -> bool:
        """Whether a newer attempt has begun; its folder is there some seconds before its first word."""
        later = self.run_directory.attempt(self.generation + 1).exists()
        return later or newest_generation(self.run_directory.ledger) > self.generation

    def _say(self, view: schedule.View) -> None:
        phase = "running" if self.ending is None else "stopping"
        message = "; ".join(self._said_of(role, view) for role in self.plan.roles)
        try:
            self.progress.update(phase, round(self.elapsed_s, 1), self.plan.time_limit_s, unit="s", message=message)
        except OSError as error:  # Nor must it end for want of a heartbeat.
            print(f"warning: no progress could be written: {error}", file=sys.stderr, flush=True)

    def _said_of(self, role: Role, view: schedule.View) -> str:
        phase = view.phases[role.name]
        member = next((member for member in self.crew.members if member.role == role.name), None)
        if member is None:
            return f"{role.name} {phase if role.name in view.ready else 'waits for its job'}"
        waits_s = member.not_before - time.monotonic()
        if phase is Phase.WAITING and waits_s > 0:
            return f"{role.name} starts again in {waits_s:.0f} s"
        if phase is Phase.WAITING:
            return f"{role.name} waits for {', '.join(schedule.blockers(role, view)) or 'its turn'}"
        if phase is Phase.RUNNING and role.kind == "service" and role.name not in view.ready:
            return f"{role.name} starts, {member.age_s:.0f} s of {role.start_timeout_s:g} s"
        if phase is Phase.STOPPING:
            return f"{role.name} stops, killed in {max(0.0, member.stop_by - time.monotonic()):.0f} s"
        return f"{role.name} {phase}"


def supervise(folder: str | Path) -> int:
    """Supervise the run in ``folder`` as its next attempt, and return the exit code.

    The first act is to read the ledger: a run that has succeeded is left alone, whoever restarts
    it, and a run that is supervised already is refused.
    """
    run = RunDirectory(Path(folder).absolute())
    if not run.plan.is_file():
        raise NotFound(f"--run-dir: {run.path} has no plan.json, so it is no run. Make one with 'orchestrator submit'.")
    if fence.succeeded(run):
        print(f"{run.name} has succeeded already; nothing to do.", file=sys.stderr)
        return 0
    job = batch_job.here(plan.load(run.plan))
    if job is not None:
        submission_environment.restore(run, os.environ)
        ended = fence.over(run, job.id)
        if ended:
            print(f"{run.name} has ended as {ended}; continue it with `resume`.", file=sys.stderr)
            return 0
        os.environ["ORCH_LEADER"] = job.address
    before = control.newest_owner(run)
    try:
        generation = fence.claim(run, job)
    except ConflictError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    launch.write_output_to(run.attempt(generation) / "supervisor.log")
    if job is not None and before is not None and fence.lives(before):
        print(f"The supervisor on {before.host} is cut off from Slurm; it gets {SETTLE_S:g} s to notice.", flush=True)
        time.sleep(SETTLE_S)
    return Supervisor(run, generation, job).run()


def main(arguments: list[str] | None = None) -> int:
    """Run ``supervise`` from the command line."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.allocation.supervisor")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--submitit", action="store_true", help="in a job that 'submit' has queued")
    parser.add_argument("--group", type=int, default=0, help="of a pair: serve this group of services")
    given = parser.parse_args(arguments)
    try:
        if given.group:
            from orchestrator.allocation import service_job

            run = RunDirectory(given.run_dir.absolute())
            return service_job.serve(run, plan.load(run.plan), given.group)
        if given.submitit:
            from orchestrator.executors import slurm

            return slurm.process(RunDirectory(given.run_dir.absolute()))
        return supervise(given.run_dir)
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
