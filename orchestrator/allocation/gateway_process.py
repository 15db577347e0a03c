"""The gateway as the supervisor sees it: a process to start, to watch and to start again.

The supervisor opens the listening socket and lends it to every gateway it starts. So the port is
the same after a ``kill -9``, nobody else can take it in between, and a connection made while
the gateway is down waits in the kernel's queue until the next one answers.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from orchestrator.allocation import launch
from orchestrator.allocation.diagnosis import end_of_process
from orchestrator.allocation.member import Member
from orchestrator.allocation.schedule import LONGEST_BACKOFF_S, Phase
from orchestrator.files import read_json
from orchestrator.ledger import Ledger
from orchestrator.run_directory import RunDirectory

RESTARTS = 20
BACKOFF_S = 0.1
DRAIN_S = 5.0
SILENT_S = 20.0
"""The gateway writes its state every 2 seconds; one that has not for so long hangs, and is killed."""
START_TIMEOUT_S = 60.0


def state_file(run: RunDirectory) -> Path:
    """Return where the gateway says where it listens and that it lives."""
    return run.control / "gateway.json"


def listening_socket(run: RunDirectory, host: str) -> socket.socket:
    """Return a bound, listening socket: on the port of the attempt before if that is free."""
    known = read_json(state_file(run)) or {}
    for port in (int(known.get("port", 0)), 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            listener.close()
            if port == 0:
                raise
            continue  # Somebody else has it by now; any other will do, it is published anew.
        listener.listen(1024)
        return listener
    raise AssertionError("port 0 is either bound or raises")


class GatewayProcess:
    """Keeps one gateway running until told to stop."""

    def __init__(self, run: RunDirectory, generation: int, ledger: Ledger, host: str = "127.0.0.1") -> None:
        self._run = run
        self._generation = generation
        self._ledger = ledger
        self._listener = listening_socket(run, host)
        self._member = Member(role="gateway", log="gateway.log", drain_s=DRAIN_S)
        self._stopping = False
        self._beat = -1

    @property
    def running(self) -> bool:
        return self._member.running

    @property
    def guard_pid(self) -> int:
        """The pid of the guard around the gateway; -1 before the first start."""
        return self._member.started.guard.pid if self._member.started else -1

    def keep(self, *, restart: bool) -> str:
        """Start it if it is not running, notice its end; return why it cannot be kept, or nothing."""
        member = self._member
        member.kill_if_overdue()
        code = member.exit_code()
        if code is not None:
            return self._ended(member.failure or end_of_process(code), restart=restart)
        if member.phase is Phase.WAITING and restart and time.monotonic() >= member.not_before:
            try:
                self._start()
            except OSError as error:
                return self._ended(f"cannot be started: {error}", restart=restart)
        elif member.phase is Phase.RUNNING:
            self._check()
        return ""

    def stop(self) -> None:
        """Ask it to end; it is not started again."""
        self._stopping = True
        if self._member.phase is Phase.WAITING:
            self._member.phase = Phase.STOPPED
        self._member.ask_to_stop()

    def _start(self) -> None:
        descriptor = self._listener.fileno()
        argv = [sys.executable, "-m", "orchestrator.allocation.gateway", "--run-dir", str(self._run.path)]
        env = dict(os.environ) | launch.marks(self._run, "gateway", None, self._generation)
        started = launch.start(
            [*argv, "--listen-fd", str(descriptor)],
            env,
            self._run.attempt(self._generation) / self._member.log,
            drain_s=DRAIN_S,
            pass_fds=(descriptor,),
        )
        self._member.begin(started, frozenset())
        self._ledger.append("role_started", role="gateway", replica=0, pid=started.pid, start=round(started.start, 2))

    def _ended(self, cause: str, *, restart: bool) -> str:
        member = self._member
        if self._stopping or not restart:
            member.phase = Phase.STOPPED
            return ""
        if member.restarts >= RESTARTS:
            member.phase = Phase.STOPPED
            return f"The gateway failed and its {RESTARTS} restarts are used up: {cause}."
        member.phase = Phase.WAITING
        member.not_before = time.monotonic() + min(BACKOFF_S * 2**member.restarts, LONGEST_BACKOFF_S)
        member.restarts += 1
        self._ledger.append("gateway_restarted", cause=cause)
        return ""

    def _check(self) -> None:
        """Note that it answers; end it if it has been silent for too long."""
        member = self._member
        assert member.started is not None
        known = read_json(state_file(self._run)) or {}
        now = time.monotonic()
        if known.get("pid") == member.started.pid:
            if member.served_at is None:
                self._ledger.append("gateway_ready", url=known["url"])
                member.served_at = now
            if known["beat"] != self._beat:
                self._beat, member.served_at = known["beat"], now
        limit_s = SILENT_S if member.served_at is not None else START_TIMEOUT_S
        since = member.served_at if member.served_at is not None else member.started_at
        if now - since > limit_s:
            member.failure = f"silent for {limit_s:g} s"
            member.drain_s = 0.0
            member.ask_to_stop()
