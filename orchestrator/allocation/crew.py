"""The processes of an attempt: started when their turn comes, watched, started again, stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator import progress, rendezvous
from orchestrator.allocation import launch, schedule
from orchestrator.allocation.diagnosis import Watch, end_of_process
from orchestrator.allocation.launch import Launcher
from orchestrator.allocation.member import Member
from orchestrator.allocation.schedule import GiveUp, Phase, View
from orchestrator.allocation.srun import Step
from orchestrator.allocation.step import SUPERSEDED
from orchestrator.ledger import Ledger, read
from orchestrator.plan import Plan, Role
from orchestrator.run_directory import RunDirectory

DRAINED = 75
LOOK_EVERY_S = 1.0
SILENT_S = 60.0
"""A service that has served and then has had no live endpoint for so long hangs, and is restarted."""
LONGEST_IN_VAIN_S = 900.0
PAUSE_IN_VAIN_S = 2.0
"""Slurm's own programs take ten seconds to give up on a controller."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """What the crew tells whoever leads it.

    Attributes:
        ended: A process has ended; told before anything is made of it.
        drained: A role has saved and ended without having been asked by us: who asked, and a sentence.
        gave_up: A role failed and is not started again here: why, its last cause, its exit code.
    """

    ended: Callable[[], None]
    drained: Callable[[str, str], None]
    gave_up: Callable[[GiveUp, str, int], None]


class Crew:
    """All members of the given roles, and what happens to them.

    Attributes:
        members: One a replica.
        stopping: Set when the attempt ends; from then on the end of a process is no failure.
    """

    def __init__(
        self,
        run: RunDirectory,
        plan: Plan,
        roles: tuple[Role, ...],
        generation: int,
        launcher: Launcher,
        ledger: Ledger,
        watch: Watch,
        listener: Listener,
    ) -> None:
        self._run = run
        self._plan = plan
        self._roles = roles
        self._generation = generation
        self._launcher = launcher
        self._ledger = ledger
        self._watch = watch
        self._listener = listener
        self._started: list[Member] = []
        self._looked = 0.0
        self.members = [
            Member(role=role.name, replica=replica, log=launch.log_name(role, replica), drain_s=role.drain_s)
            for role in roles
            for replica in range(role.replicas)
        ]
        self.stopping = False

    @property
    def running(self) -> bool:
        """Whether any member has a process."""
        return any(member.running for member in self.members)

    @property
    def guards(self) -> set[int]:
        """Pids of our own children."""
        return {member.started.guard.pid for member in self.members if member.started is not None}

    def view(self) -> View:
        """Return every role's phase and which services can be asked."""
        return View(phases={role.name: self._phase(role.name) for role in self._roles}, ready=self._ready())

    def remember_successes(self) -> None:
        """Take over batch roles that an earlier attempt has finished, if their outputs are still there."""
        done = {
            event.fields["role"]
            for event in read(self._run.ledger)
            if event.event == "role_finished" and event.fields.get("exit_code") == 0
        }
        for member in self.members:
            outputs = self._run.outputs / f"{member.role}.json"
            if self._plan.role(member.role).kind == "batch" and member.role in done and outputs.exists():
                member.phase = Phase.SUCCEEDED

    def start(self, may: Callable[[Role], bool]) -> None:
        """Start every waiting member whose pause is over and whose role may start."""
        now = time.monotonic()
        for member in self.members:
            role = self._plan.role(member.role)
            if member.phase is Phase.WAITING and now >= member.not_before and may(role):
                self._start(member, role)

    def collect(self) -> None:
        """Take note of what has ended, and of what must be ended because it does not do its work."""
        look = time.monotonic() - self._looked >= LOOK_EVERY_S
        self._looked = time.monotonic() if look else self._looked
        for member in self.members:
            member.kill_if_overdue()
            code = member.exit_code()
            if code is not None:
                self._ended(member, code)
            elif member.phase is Phase.RUNNING and self._plan.role(member.role).kind == "service":
                self._check_service(member)
            if look and member.running:
                self._look(member)

    def stop(self, role: str) -> None:
        """Ask a role to end; it is not started again."""
        for member in self.members:
            if member.role == role:
                if member.phase is Phase.WAITING:
                    member.phase = Phase.STOPPED
                member.ask_to_stop()

    def stop_next(self) -> None:
        """Ask batch roles to end, and once there is none the services, which the last batch may still ask."""
        alive = [member for member in reversed(self._started) if member.running]
        batch = [member for member in alive if self._plan.role(member.role).kind == "batch"]
        for member in batch or alive:
            member.ask_to_stop()

    # Starting.

    def _start(self, member: Member, role: Role) -> None:
        try:
            started = self._launcher.start(role, member.replica, number=member.restarts, log=member.log)
        except OSError as error:
            self._watch.note(role.name, f"cannot be started: {error}.")
            self._after_failure(member, role, 1, f"cannot be started: {error}")
            return
        member.begin(started, self._checkpoints())
        self._started = [other for other in self._started if other is not member] + [member]
        where = {"nodes": list(started.where)} if started.where else {}
        self._ledger.append(
            "role_started",
            role=role.name,
            replica=member.replica,
            pid=started.pid,
            start=round(started.start, 2),
            **where,
        )

    # Looking.

    def _look(self, member: Member) -> None:
        """Once a second: read the log, and what the tasks on other nodes say."""
        if self._plan.role(member.role).kind == "batch":
            self._forgive_if_it_commits(member)
            if member.phase is Phase.RUNNING:
                self._check_progress(member)
        self._watch.look(member.role, member.log)
        if member.phase is Phase.RUNNING and not self.stopping:
            self._tell_if_slurm_stops_it(member)

    def _forgive_if_it_commits(self, member: Member) -> None:
        """A trainer that has committed since the last look has recovered from whatever its log said until then."""
        committed = self._checkpoints()
        if committed - member.seen:
            member.seen = committed
            self._watch.forgive(member.role)

    def _tell_if_slurm_stops_it(self, member: Member) -> bool:
        told = member.started.signalled() if isinstance(member.started, Step) else None
        if told is not None:
            self._listener.drained(f"{told.signal} on {told.host}", f"Slurm stops step {told.step}.")
        return told is not None

    def _check_service(self, member: Member) -> None:
        role = self._plan.role(member.role)
        name = f"{member.role}-{member.replica}"
        endpoint = rendezvous.lookup(self._run, name, generation=self._generation)
        now = time.monotonic()
        if endpoint is not None:
            if member.served_at is None:
                self._ledger.append("service_ready", role=member.role, replica=member.replica, url=endpoint.url)
                self._watch.forgive(member.role)
            member.served_at = now
        elif member.served_at is None and member.age_s > role.start_timeout_s:
            self._fail(member, f"did not answer within {role.start_timeout_s:g} s")
        elif member.served_at is not None and now - member.served_at > SILENT_S and not role.url:
            self._fail(member, f"has not answered for {SILENT_S:g} s")

    def _check_progress(self, member: Member) -> None:
        """End a batch role that has said something since its start and then nothing for too long.

        A stopped process, or one that waits for ever, keeps its heartbeat threads; only what it has to
        say of its work tells. A program that never says anything cannot be judged, and is left alone.
        """
        role = self._plan.role(member.role)
        said = progress.read_one(self._run.progress, role.name) if member.age_s >= role.hung_after_s else None
        if said is not None and role.hung_after_s < time.time() - said.at < member.age_s:
            self._fail(member, f"has said nothing for {role.hung_after_s:g} s; the last was {said.phase!r}")

    def _fail(self, member: Member, why: str) -> None:
        member.ask_to_stop()
        member.failure = why
        self._watch.note(member.role, f"{why}.")

    # Ends.

    def _ended(self, member: Member, code: int) -> None:
        self._listener.ended()
        role = self._plan.role(member.role)
        if role.kind == "service":
            self._remove_endpoint(member)
        stopped = (member.phase is Phase.STOPPING and not member.failure) or (self.stopping and role.kind == "service")
        success = role.kind == "batch" and code == 0
        drained = role.kind == "batch" and code == DRAINED and not member.failure
        if not stopped and not self.stopping and self._never_began(member, role):
            return
        told = not self.stopping and self._tell_if_slurm_stops_it(member)
        failed = not (success or stopped or drained or told or self.stopping)
        if failed:
            self._watch.ended(member.role, member.log, code)
        cause = self._cause(member, code, success=success, stopped=stopped or told)
        blamed = {"nodes_blamed": nodes} if failed and code != SUPERSEDED and (nodes := _blamed(member)) else {}
        self._ledger.append(
            "role_finished", role=role.name, replica=member.replica, exit_code=code, cause=cause, **blamed
        )
        member.phase = Phase.SUCCEEDED if success else Phase.STOPPED
        if failed:
            self._after_failure(member, role, code, cause)
        elif drained and not stopped:
            self._listener.drained(f"role {role.name}", f"Role {role.name} drained.")

    def _never_began(self, member: Member, role: Role) -> bool:
        """Have another go at a step that Slurm did not start, for some minutes; it is no failure of the role.

        A controller that is down or restarted lets running jobs alone, but starts no steps.
        """
        if not isinstance(member.started, Step) or member.started.began:
            member.in_vain_since = None
            return False
        member.in_vain_since = member.in_vain_since or member.started_at
        if time.monotonic() - member.in_vain_since > LONGEST_IN_VAIN_S:
            return False
        member.phase, member.not_before = Phase.WAITING, time.monotonic() + PAUSE_IN_VAIN_S
        said = last_line(self._watch.folder / f"srun-{member.log}")
        self._ledger.append("role_not_started", role=role.name, replica=member.replica, cause=said)
        return True

    def _cause(self, member: Member, code: int, *, success: bool, stopped: bool) -> str:
        if success:
            return "done"
        if code == DRAINED and not member.failure:
            return "drained"
        if stopped:
            return "stopped" if code == 0 else f"stopped ({end_of_process(code)})"
        said = self._watch.latest(member.role)
        ended = member.failure or end_of_process(code)
        return ended if not said or ended in said else f"{ended}: {said}"

    def _after_failure(self, member: Member, role: Role, code: int, cause: str) -> None:
        if self._checkpoints() - member.checkpoints:
            member.fruitless = 0
        elif member.restarts and role.kind == "batch":
            member.fruitless += 1
        step = schedule.after_failure(
            role, self._plan.restarts, code=code, restarts=member.restarts, fruitless=member.fruitless
        )
        if isinstance(step, GiveUp):
            self._listener.gave_up(step, cause, code)
            return
        member.phase = Phase.WAITING
        member.restarts = step.restart
        member.not_before = time.monotonic() + step.in_s
        self._ledger.append(
            "role_restarting",
            role=role.name,
            replica=member.replica,
            in_s=step.in_s,
            restart=step.restart,
            of=step.of,
            cause=cause,
        )

    def _remove_endpoint(self, member: Member) -> None:
        """Nothing of the replica runs any more, so nobody else can be writing this file."""
        (self._run.endpoints / f"{member.role}-{member.replica}.json").unlink(missing_ok=True)

    # What is known.

    def _phase(self, role: str) -> Phase:
        """Fold the replicas of a role: it runs if any does."""
        phases = {member.phase for member in self.members if member.role == role}
        order = (Phase.RUNNING, Phase.STOPPING, Phase.WAITING, Phase.STOPPED, Phase.SUCCEEDED)
        return next(phase for phase in order if phase in phases)

    def _ready(self) -> frozenset[str]:
        services = (role.name for role in self._roles if role.kind == "service")
        lookup = rendezvous.lookup
        return frozenset(name for name in services if lookup(self._run, name, generation=self._generation) is not None)

    def _checkpoints(self) -> frozenset[str]:
        """Return the committed checkpoints; those are the ones with a manifest."""
        return frozenset(path.parent.name for path in self._run.checkpoints.glob("[!.]*/MANIFEST.json"))


def last_line(log: Path) -> str:
    """Return the last line of a log; nothing if there is none."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else ""


def _blamed(member: Member) -> list[str]:
    """Return the nodes on which a role failed: that of the task which failed first, else those that fell silent."""
    if not isinstance(member.started, Step):
        return []
    first = member.started.failed()
    return [first.host] if first is not None else list(member.started.lost())
