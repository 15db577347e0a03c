"""One node, and the controller: the faults that can be tried on them."""

from __future__ import annotations

import re
import signal
import socket
import time
from datetime import datetime
from typing import TYPE_CHECKING

from cluster.sandbox import addresses, daemons, members, namespaces
from cluster.sandbox.errors import SandboxError
from orchestrator import processes
from orchestrator.processes import Process

if TYPE_CHECKING:
    from cluster.sandbox.slurm import Sandbox

END_S = 10.0
BOOT_S = 15.0
ROUND_S = 1.0
POLL_S = 0.05
USABLE = frozenset({"IDLE", "MIXED", "ALLOCATED", "COMPLETING"})


class Node:
    """A virtual node. Objects are cheap and hold no state."""

    def __init__(self, sandbox: Sandbox, name: str) -> None:
        self._sandbox = sandbox
        self.name = name
        self.number = sandbox.options.node_names.index(name) + 1

    @property
    def ip(self) -> str:
        """Its IPv4 address."""
        return self._sandbox.record.addresses.node(self.number)

    @property
    def state(self) -> str:
        """What Slurm says of it, ``"IDLE"``, ``"DOWN*"``, ``"IDLE+DRAIN"``; the star: it does not answer."""
        return self._shown("State")

    def cut(self) -> None:
        """Pull the network cable: what runs on the node runs on, and nobody hears of it."""
        self._cable("down")

    def heal(self) -> None:
        """Put the cable back."""
        self._cable("up")

    def kill(self) -> None:
        """Take the power away: slurmd and everything else on the node ends at once, and says good-bye to nobody."""
        if self._sandbox.record.holders:
            self.cut()
        until = time.monotonic() + END_S
        while left := self._members():
            members.end(left, ROUND_S)
            if time.monotonic() >= until:
                raise SandboxError(f"{self.name}: {len(left)} process(es) do not end within {END_S:.0f} s.")

    def boot(self, timeout_s: float = BOOT_S) -> None:
        """Give the power back, and return when Slurm has the node again; with ``timeout_s=0`` at once."""
        if self._sandbox.record.holders:
            self.heal()
        # Slurm may not have noticed that the node was away: its state says nothing, the start of its slurmd does.
        began = datetime.now().replace(microsecond=0).isoformat()
        self.start_daemon()
        until = time.monotonic() + timeout_s
        while timeout_s and not (self._shown("SlurmdStartTime") >= began and self.state.split("+")[0] in USABLE):
            if time.monotonic() >= until:
                raise SandboxError(f"{self.name}: {self.state} {timeout_s:.0f} s after its boot.")
            time.sleep(POLL_S)

    def down(self) -> None:
        """Have an administrator declare the node down; Slurm ends its jobs, the node itself is well."""
        self._sandbox.run(["scontrol", "update", f"nodename={self.name}", "state=down", "reason=sandbox"], check=True)

    def resume(self) -> None:
        """Take ``down`` back. Does nothing if the node is in use."""
        if not {"DOWN", "DRAIN"} & set(re.split(r"[^A-Z]", self.state)):
            return
        self._sandbox.run(["scontrol", "update", f"nodename={self.name}", "state=resume"], check=True)

    def processes(self) -> list[int]:
        """Return the pids of everything that runs on the node, its slurmd included."""
        return sorted(process.pid for process in self._members())

    def start_daemon(self) -> None:
        """Start slurmd."""
        sandbox = self._sandbox
        argv = ["slurmd", "-D", "-N", self.name, "-f", str(sandbox.slurm_conf)]
        place = sandbox.record.node(self.name)
        daemons.start(place.as_user(argv, sandbox.folder), sandbox.folder, f"slurmd-{self.name}")

    def _shown(self, field: str) -> str:
        shown = self._sandbox.run(["scontrol", "--oneliner", "show", "node", self.name], check=True).stdout
        found = re.search(rf"\b{field}=(\S+)", shown)
        return found.group(1) if found else ""

    def _members(self) -> list[Process]:
        holder = self._sandbox.record.holders.get(self.name)
        if holder is None:
            return members.on_node(self._sandbox.folder, self.name)
        name = members.network(holder)
        if name is None:
            raise SandboxError(
                f"{self.name}: its network is gone, someone ended process {holder}. Bring the sandbox down."
            )
        return [process for process in members.in_network(name) if process.pid != holder]

    def _cable(self, state: str) -> None:
        known = self._sandbox.record
        if not known.holders:
            raise SandboxError(f"{self.name}: has no cable of its own; all nodes share 127.0.0.1 (layout multi).")
        cable = addresses.cable(self._sandbox.folder, self.number)
        namespaces.network_commands(known.host, [f"link set {cable} {state}"])


class Controller:
    """slurmctld."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    @property
    def alive(self) -> bool:
        """Whether its process lives."""
        return bool(members.part(self._sandbox.folder, "slurmctld"))

    def start(self) -> None:
        """Start it and return when it can be connected to; with the state it had when it was stopped."""
        sandbox = self._sandbox
        host = sandbox.record.host
        argv = ["slurmctld", "-D", "-f", str(sandbox.slurm_conf)]
        pid = daemons.start(host.as_user(argv, sandbox.folder), sandbox.folder, "slurmctld")
        daemons.wait_for(self._listens, pid, sandbox.folder, "slurmctld")

    def stop(self, *, kill: bool = False) -> None:
        """End it: in order, or with ``kill`` at once, so that the last seconds of its state may be lost."""
        found = members.part(self._sandbox.folder, "slurmctld")
        processes.kill(found, signal.SIGKILL if kill else signal.SIGTERM)
        if processes.wait_gone(found, END_S):
            members.end(members.part(self._sandbox.folder, "slurmctld"), ROUND_S)

    def _listens(self) -> bool:
        known = self._sandbox.record
        if known.login is None:
            with socket.socket() as probe:
                return probe.connect_ex((known.addresses.host, known.addresses.controller_port)) == 0
        # Its network is not ours, but every process shows the sockets of its own.
        port = f":{known.addresses.controller_port:04X} 00000000:0000 0A"
        with open(f"/proc/{known.login}/net/tcp", encoding="ascii") as table:
            return any(port in line for line in table)
