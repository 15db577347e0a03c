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
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from orchestrator import control, plan, processes, rendezvous
from orchestrator.allocation import fence, final_report, launch, schedule, sweep
from orchestrator.allocation.diagnosis import Watch, end_of_process
from orchestrator.allocation.gateway_process import GatewayProcess
from orchestrator.allocation.member import Member
from orchestrator.allocation.schedule import Phase
from orchestrator.errors import ConflictError, OrchestratorError
from orchestrator.files import read_json
from orchestrator.ledger import Ledger, newest_generation, read
from orchestrator.plan import Role
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory

TICK_S = 0.1
LOOK_EVERY_S = 1.0
OWN_EVERY_S = 5.0
DRAINED = 75
SILENT_S = 60.0
"""A service that has served and then has had no live endpoint for so long hangs, and is restarted."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """In which state the attempt is to end, and why."""

    state: str
    cause: str


class Supervisor:
    """Runs one attempt of one plan; ``run`` returns the exit code."""

    def __init__(self, run: RunDirectory, generation: int) -> None:
        self.run_directory = run
        self.generation = generation
        self.plan = plan.load(run.plan)
        self.ledger = Ledger(run.ledger, generation)
        self.progress = Progress(run.progress, "run")
        self.watch = Watch(run.attempt(generation))
        self.members = [self._member(role, i) for role in self.plan.roles for i in range(role.replicas)]
        self.gateway = GatewayProcess(run, generation, self.ledger) if self._has_services() else None
        self.ending: Ending | None = None
        self._signals: list[int] = []
        self._started: list[Member] = []
        self._began = time.monotonic()
        self._looked = self._owned = 0.0

    def run(self) -> int:
        """Supervise until all is done or drained, and return the run's exit code."""
        self._listen()
        processes.adopt_orphans()
        self.ledger.append("attempt_started", attempt=self.generation, pid=os.getpid(), host=socket.gethostname())
        self._sweep()
        self._make_keys()
        self._remember_successes()
        while not self._over():
            self._tick()
            time.sleep(TICK_S)
        return self._finish()

    # What the loop does.

    def _tick(self) -> None:
        self._look()
        self._check_drain_requests()
        for member in self.members:
            self._collect(member)
        view = self._view()
        if self.ending is None:
            self._start_what_may(view)
            for name in schedule.to_stop(self.plan, view):
                self._stop_role(name)
        else:
            self._drain()
        if self.gateway is not None:
            self._keep_gateway()
        self._say(view)

    def _over(self) -> bool:
        anyone = any(member.running for member in self.members) or (self.gateway is not None and self.gateway.running)
        if self.ending is not None:
            return not anyone
        if schedule.finished(self.plan, self._view()):
            self.ending = Ending(state="SUCCEEDED", cause="")
        return False

    def _start_what_may(self, view: schedule.View) -> None:
        now = time.monotonic()
        for member in self.members:
            role = self.plan.role(member.role)
            due = member.phase is Phase.WAITING and now >= member.not_before
            if due and schedule.may_start(self.plan, role, view):
                self._start(member, role)

    def _start(self, member: Member, role: Role) -> None:
        env = launch.environment(
            os.environ, self.run_directory, role, replica=member.replica, generation=self.generation
        )
        log = self.run_directory.attempt(self.generation) / member.log
        try:
            started = launch.start(launch.command(self.run_directory, role), env, log, drain_s=role.drain_s)
        except OSError as error:
            self.watch.note(role.name, f"cannot be started: {error}.")
            self._after_failure(member, role, 1, f"cannot be started: {error}")
            return
        member.begin(started, self._checkpoints())
        self._started = [other for other in self._started if other is not member] + [member]
        self.ledger.append(
            "role_started", role=role.name, replica=member.replica, pid=started.pid, start=round(started.start, 2)
        )

    def _collect(self, member: Member) -> None:
        """Take note of a process that has ended, or that must be ended because it does not serve."""
        member.kill_if_overdue()
        code = member.exit_code()
        if code is not None:
            self._ended(member, code)
        elif member.phase is Phase.RUNNING and self.plan.role(member.role).kind == "service":
            self._check_service(member)

    def _ended(self, member: Member, code: int) -> None:
        self._end_orphans()
        role = self.plan.role(member.role)
        if role.kind == "service":
            self._remove_endpoint(member)
        stopped = member.phase is Phase.STOPPING and not member.failure
        success = role.kind == "batch" and code == 0
        failed = not success and not stopped and self.ending is None and not (role.kind == "batch" and code == DRAINED)
        if failed:
            self.watch.ended(member.role, member.log, code)
        cause = self._cause(member, code, success=success, stopped=stopped)
        self.ledger.append("role_finished", role=role.name, replica=member.replica, exit_code=code, cause=cause)
        member.phase = Phase.SUCCEEDED if success else Phase.STOPPED
        if failed:
            self._after_failure(member, role, code, cause)
        elif role.kind == "batch" and code == DRAINED and not stopped:
            self._request_drain(f"role {role.name}", Ending(state="DRAINED", cause=f"Role {role.name} drained."))

    def _cause(self, member: Member, code: int, *, success: bool, stopped: bool) -> str:
        if success:
            return "done"
        if code == DRAINED:
            return "drained"
        if stopped:
            return "stopped" if code == 0 else f"stopped ({end_of_process(code)})"
        said = self.watch.latest(member.role)
        ended = member.failure or end_of_process(code)
        return ended if not said or ended in said else f"{ended}: {said}"

    def _after_failure(self, member: Member, role: Role, code: int, cause: str) -> None:
        if self._checkpoints() - member.checkpoints:
            member.fruitless = 0
        elif member.restarts and role.kind == "batch":
            member.fruitless += 1
        step = schedule.after_failure(
            role, self.plan.restarts, code=code, restarts=member.restarts, fruitless=member.fruitless
        )
        if isinstance(step, schedule.GiveUp):
            self._request_drain("failure", Ending(state=step.state, cause=f"{step.cause} Last: {cause}"))
            return
        member.phase = Phase.WAITING
        member.restarts = step.restart
        member.not_before = time.monotonic() + step.in_s
        self.ledger.append(
            "role_restarting",
            role=role.name,
            replica=member.replica,
            in_s=step.in_s,
            restart=step.restart,
            of=step.of,
            cause=cause,
        )

    # Services and the gateway.

    def _check_service(self, member: Member) -> None:
        role = self.plan.role(member.role)
        name = f"{member.role}-{member.replica}"
        endpoint = rendezvous.lookup(self.run_directory, name, generation=self.generation)
        now = time.monotonic()
        if endpoint is not None:
            if member.served_at is None:
                self.ledger.append("service_ready", role=member.role, replica=member.replica, url=endpoint.url)
                self.watch.forgive(member.role)
            member.served_at = now
        elif member.served_at is None and member.age_s > role.start_timeout_s:
            self._fail(member, f"did not answer within {role.start_timeout_s:g} s")
        elif member.served_at is not None and now - member.served_at > SILENT_S:
            self._fail(member, f"has not answered for {SILENT_S:g} s")

    def _fail(self, member: Member, why: str) -> None:
        member.ask_to_stop()
        member.failure = why
        self.watch.note(member.role, f"{why}.")

    def _stop_role(self, name: str) -> None:
        for member in self.members:
            if member.role == name:
                if member.phase is Phase.WAITING:
                    member.phase = Phase.STOPPED
                member.ask_to_stop()

    def _remove_endpoint(self, member: Member) -> None:
        """Nothing of the replica runs any more, so nobody else can be writing this file."""
        name = f"{member.role}-{member.replica}.json"
        (self.run_directory.endpoints / name).unlink(missing_ok=True)

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
        if self.ending is not None and not any(member.running for member in self.members):
            self.gateway.stop()
        failure = self.gateway.keep(restart=self.ending is None or any(m.running for m in self.members))
        if failure and self.ending is None:
            self.watch.note("gateway", failure)
            self._request_drain("failure", Ending(state="FAILED", cause=failure))

    # Stopping.

    def _listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._record)

    def _record(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _check_drain_requests(self) -> None:
        request = read_json(control.cancel_file(self.run_directory))
        if request is not None:
            by = str(request.get("by", "cancel"))
            self._request_drain(by, Ending(state="CANCELLED", cause=f"Cancelled by {by}."))
        while self._signals:
            name = signal.Signals(self._signals.pop(0)).name
            self._request_drain(name, Ending(state="DRAINED", cause=f"Asked to stop by {name}."))
        if self.elapsed_s >= self.plan.time_limit_s:
            limit = f"The time limit of {self.plan.time_limit_s} s is reached."
            self._request_drain("time limit", Ending(state="DRAINED", cause=limit))

    def _request_drain(self, by: str, ending: Ending) -> None:
        """Begin to drain, or, drained already by something weaker than a person, note the new reason."""
        if self.ending is None or (ending.state == "CANCELLED" and self.ending.state == "DRAINED"):
            self.ending = ending
            self.ledger.append("drain_requested", by=by)

    def _drain(self) -> None:
        """Stop batch roles, newest first, and then the services, which the last batch may still ask."""
        alive = [member for member in reversed(self._started) if member.running]
        batch = [member for member in alive if self.plan.role(member.role).kind == "batch"]
        for member in batch or alive:
            member.ask_to_stop()

    def _finish(self) -> int:
        assert self.ending is not None
        done = schedule.finished(self.plan, self._view())
        ending = Ending(state="SUCCEEDED", cause="") if done else self.ending
        if done:
            self._report()
        found = self.watch.earliest() if ending.state in ("FAILED", "CRASH_LOOP") else None
        diagnosis = str(found) if found else ""
        self.ledger.append("run_finished", state=ending.state, cause=ending.cause, diagnosis=diagnosis)
        self.progress.update(ending.state.lower(), message=ending.cause)
        if ending.state != "SUCCEEDED":
            earliest = f"\nThe earliest error:\n{diagnosis}" if diagnosis else ""
            print(f"error: {ending.cause}{earliest}", file=sys.stderr, flush=True)
        return control.EXIT_CODES[ending.state]

    def _report(self) -> None:
        asked = control.cancel_file(self.run_directory)
        why_not = final_report.write(
            self.run_directory, self.generation, self.progress, lambda: bool(self._signals) or asked.exists()
        )
        if why_not:
            self.ledger.append("warning", what="report", cause=why_not)

    # What is known.

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def _member(self, role: Role, replica: int) -> Member:
        return Member(role=role.name, replica=replica, log=launch.log_name(role, replica), drain_s=role.drain_s)

    def _view(self) -> schedule.View:
        return schedule.View(phases={r.name: self._phase(r.name) for r in self.plan.roles}, ready=self._ready())

    def _phase(self, role: str) -> Phase:
        """Fold the replicas of a role: it runs if any does."""
        phases = {member.phase for member in self.members if member.role == role}
        order = (Phase.RUNNING, Phase.STOPPING, Phase.WAITING, Phase.STOPPED, Phase.SUCCEEDED)
        return next(phase for phase in order if phase in phases)

    def _ready(self) -> frozenset[str]:
        services = [role.name for role in self.plan.roles if role.kind == "service"]
        return frozenset(
            name
            for name in services
            if rendezvous.lookup(self.run_directory, name, generation=self.generation) is not None
        )

    def _checkpoints(self) -> frozenset[str]:
        """Return the committed checkpoints; those are the ones with a manifest."""
        return frozenset(path.parent.name for path in self.run_directory.checkpoints.glob("[!.]*/MANIFEST.json"))

    def _remember_successes(self) -> None:
        """Take over batch roles that an earlier attempt has finished, if their outputs are still there."""
        done = {
            event.fields["role"]
            for event in read(self.run_directory.ledger)
            if event.event == "role_finished" and event.fields.get("exit_code") == 0
        }
        for member in self.members:
            outputs = self.run_directory.outputs / f"{member.role}.json"
            if self.plan.role(member.role).kind == "batch" and member.role in done and outputs.exists():
                member.phase = Phase.SUCCEEDED

    def _sweep(self) -> None:
        stubborn = sweep.sweep(self.run_directory)
        if stubborn:
            pids = ", ".join(str(process.pid) for process in stubborn)
            self.ledger.append("warning", what="leftovers", cause=f"Not even SIGKILL ended {pids}.")

    def _end_orphans(self) -> None:
        """Kill what a killed guard left to us, and collect it."""
        guards = {m.started.guard.pid for m in self.members if m.started is not None}
        guards |= {self.gateway.guard_pid} if self.gateway is not None else set()
        me = os.getpid()
        for child in (process for process in processes.everyone() if process.parent == me):
            if child.pid not in guards:
                processes.kill([*processes.descendants(child.pid), child])
                processes.wait_gone([child], 2.0)
                os.waitpid(child.pid, os.WNOHANG)

    def _look(self) -> None:
        """Once a second: read the logs. Every few seconds: renew the lease, look for a successor."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            for member in self.members:
                if member.running:
                    self.watch.look(member.role, member.log)
                    self._forgive_if_it_commits(member)
        if now - self._owned >= OWN_EVERY_S:
            self._owned = now
            self._renew()
            self._check_generation()

    def _forgive_if_it_commits(self, member: Member) -> None:
        """A trainer that commits again has recovered from whatever its log says."""
        if self.plan.role(member.role).kind == "batch" and self._checkpoints() - member.checkpoints:
            self.watch.forgive(member.role)

    def _renew(self) -> None:
        try:
            control.own(self.run_directory, self.generation)
        except OSError as error:  # A full disk must not end the run; on this host the lock is enough.
            print(f"warning: the lease was not renewed: {error}", file=sys.stderr, flush=True)

    def _check_generation(self) -> None:
        newest = newest_generation(self.run_directory.ledger)
        if newest > self.generation and self.ending is None:
            self._request_drain(f"attempt {newest}", Ending(state="DRAINED", cause=f"Attempt {newest} has taken over."))

    def _say(self, view: schedule.View) -> None:
        phase = "running" if self.ending is None else "stopping"
        message = "; ".join(self._said_of(role, view) for role in self.plan.roles)
        try:
            self.progress.update(phase, round(self.elapsed_s, 1), self.plan.time_limit_s, unit="s", message=message)
        except OSError as error:  # Nor must it end for want of a heartbeat.
            print(f"warning: no progress could be written: {error}", file=sys.stderr, flush=True)

    def _said_of(self, role: Role, view: schedule.View) -> str:
        member = next(member for member in self.members if member.role == role.name)
        phase = view.phases[role.name]
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
    if fence.succeeded(run):
        print(f"{run.name} has succeeded already; nothing to do.", file=sys.stderr)
        return 0
    try:
        generation = fence.claim(run)
    except ConflictError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    _write_to(run.attempt(generation) / "supervisor.log")
    return Supervisor(run, generation).run()


def _write_to(log: Path) -> None:
    """Send all that this process prints to its log in the attempt's folder."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


def main(arguments: list[str] | None = None) -> int:
    """Run ``supervise`` from the command line."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.allocation.supervisor")
    parser.add_argument("--run-dir", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        return supervise(given.run_dir)
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
