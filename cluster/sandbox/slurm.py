"""The sandbox: brings Slurm up and down, runs commands in it, asks it questions."""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import secrets
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType

from cluster.sandbox import addresses, cgroups, configuration, daemons, members, namespaces, record
from cluster.sandbox.errors import SandboxError
from cluster.sandbox.namespaces import NamespaceError, Place, Route
from cluster.sandbox.node import Controller, Node
from cluster.sandbox.options import Options
from cluster.sandbox.questions import Rpcs
from cluster.sandbox.record import Record

START_S = 20.0
"""Every step of `up` is given up after this. All of them together take less than one second."""
STOP_S = 10.0
CLIENT_S = 20.0
"""Slurm's clients try for 9 to 10 s to reach a controller that is down."""
LONGEST_FOLDER = 80
"""Paths of sockets have 108 bytes at most."""
KEPT = ("log", "lock")
"""What of the folder outlives `down`."""
POLL_S = 0.05


def default_folder() -> Path:
    """Return ``$ORCH_SANDBOX``, or a folder in the user's cache."""
    chosen = os.environ.get("ORCH_SANDBOX")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else cache / "orchestrator" / f"sandbox-{os.getuid()}"


class Sandbox:
    """One Slurm in one folder. As a context manager it is up inside the block and gone after it.

    Several objects, also of several processes, may speak of the same folder: what is known of a sandbox is on disk.
    """

    def __init__(
        self,
        folder: Path | None = None,
        options: Options | None = None,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """Name a sandbox; nothing is started.

        Args:
            folder: Its private folder. Default: see ``default_folder``.
            options: What it is to be like when it is brought up. Default: those it is up with, else ``Options()``.
            say: Called with one line for every step of ``up`` and ``down``.
        """
        self.folder = Path(os.path.abspath(folder or default_folder()))
        self._wanted = options
        self._say = say

    def __enter__(self) -> Sandbox:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @property
    def record(self) -> Record:
        """What is known of the running sandbox.

        Raises:
            SandboxError: It is not up.
        """
        found = record.read(self.folder)
        if found is None:
            raise SandboxError(f"{self.folder}: no sandbox is up here. Start it: python -m cluster.sandbox up.")
        return found

    @property
    def options(self) -> Options:
        """What the sandbox is like."""
        return self.record.options

    @property
    def is_up(self) -> bool:
        """Whether the sandbox was brought up and its controller lives."""
        return record.read(self.folder) is not None and self.controller.alive

    @property
    def controller(self) -> Controller:
        """slurmctld."""
        return Controller(self)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, in order."""
        return tuple(Node(self, name) for name in self.options.node_names)

    def node(self, name: str) -> Node:
        """Return a node by its name, ``"n3"``.

        Raises:
            SandboxError: There is no such node.
        """
        if name not in self.options.node_names:
            raise SandboxError(f"{name}: no such node. Nodes: {', '.join(self.options.node_names)}.")
        return Node(self, name)

    @property
    def slurm_conf(self) -> Path:
        """The path of slurm.conf."""
        return self.folder / "etc" / "slurm.conf"

    @property
    def own_env(self) -> dict[str, str]:
        """The variables that lead Slurm's clients and our own command to this sandbox."""
        return {"SLURM_CONF": str(self.slurm_conf), "ORCH_SANDBOX": str(self.folder), "ORCH_CLUSTER": "sandbox"}

    @property
    def env(self) -> dict[str, str]:
        """This process's environment with ``own_env``, and without what a Slurm job around us would have set."""
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SLURMD_"))}
        return {**outside, **self.own_env}

    def command(self, argv: Sequence[str], cwd: Path | None = None) -> list[str]:
        """Return the command line that runs ``argv`` where Slurm can be reached; with root that is ``argv`` itself."""
        return self.record.host.as_user(argv, cwd or Path.cwd())

    def run(
        self, argv: Sequence[str], timeout_s: float = CLIENT_S, *, cwd: Path | None = None, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a user of the cluster would on its login node, and return what it printed.

        Raises:
            subprocess.TimeoutExpired: It took longer than ``timeout_s``.
            SandboxError: ``check`` is set and it failed.
        """
        done = subprocess.run(
            self.command(argv, cwd),
            env=self.env,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise SandboxError(f"{argv[0]}: exit code {done.returncode}, {done.stderr.strip()}")
        return done

    def up(self) -> None:
        """Bring Slurm up and return when all nodes are idle. Does nothing if it is up; clears away half of one.

        Raises:
            SandboxError: A program is missing, the folder is not ours alone, a daemon does not start, or the sandbox
                is up with options other than those wanted.
        """
        daemons.check_installed()
        self._make_folder()
        with self._locked():
            if self.is_up:
                self._check_same_options()
                return
            self._clear()
            began = time.monotonic()
            try:
                self._start(self._wanted or Options())
            except BaseException:
                self._clear()
                raise
            self._say(f"up after {time.monotonic() - began:.1f} s: {self.options.nodes} nodes, {self.folder}")

    def down(self) -> None:
        """End everything that belongs to the sandbox. Also what an ``up`` left that was killed half-way.

        Raises:
            SandboxError: Something could not be removed; it is named.
        """
        if not self.folder.exists():
            return
        with self._locked():
            began = time.monotonic()
            self._clear()
            self._say(f"down after {time.monotonic() - began:.1f} s: {self.folder}")

    def preempt(self, nodes: Sequence[str], seconds: float) -> str:
        """Submit a job of high priority that takes whole nodes from others for a time, and return its id."""
        script = f"#!/bin/sh\nexec sleep {seconds}\n"
        path = self.folder / "run" / f"preempt-{secrets.token_hex(4)}.sh"
        path.write_text(script, encoding="utf-8")
        options = [
            "--partition=urgent", f"--nodelist={','.join(nodes)}", f"--nodes={len(nodes)}", "--exclusive",
            "--no-requeue", "--job-name=preempt", "--output=/dev/null", "--export=NIL",
        ]  # fmt: skip
        return self.run(["sbatch", "--parsable", *options, str(path)], check=True).stdout.strip()

    def state(self, job_id: str) -> str:
        """Return a job's state, ``RUNNING``; of a heterogeneous job its first component's. Empty: unknown to Slurm."""
        done = self.run(["scontrol", "--oneliner", "show", "job", job_id])
        found = re.search(r"JobState=(\S+)", done.stdout)
        return found.group(1) if found else ""

    def wait(self, job_id: str, states: Sequence[str], timeout_s: float) -> str:
        """Wait until a job is in one of the states and return that state.

        Raises:
            TimeoutError: It is in another state after ``timeout_s``; the message has all Slurm says of it.
        """
        until = time.monotonic() + timeout_s
        while (state := self.state(job_id)) not in states:
            if time.monotonic() >= until:
                shown = self.run(["scontrol", "show", "job", job_id])
                raise TimeoutError(
                    f"job {job_id}: {state or 'unknown'} after {timeout_s} s, not {', '.join(states)}.\n"
                    f"{shown.stdout}{shown.stderr}"
                )
            time.sleep(POLL_S)
        return state

    def rpcs(self) -> Rpcs:
        """Return how many requests slurmctld has had, by type and by user; those of this question itself left out."""
        return Rpcs.parse(self.run(["sdiag"], check=True).stdout)

    def _check_same_options(self) -> None:
        if self._wanted not in (None, self.options):
            raise SandboxError(f"{self.folder}: is up with other options, {self.options}. Take it down first.")

    def _start(self, options: Options) -> None:
        route = self._route(options)
        for name in ("etc", "run", "log", "state", "spool", "dev"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        self._make_devices(options)
        proctrack = cgroups.plugin(options.proctrack, route)
        chosen = addresses.choose(self.folder, options.nodes, self._networks_in_use(route))
        found = Record(options=options, addresses=chosen, route=route, proctrack=proctrack, login=None, holders={})
        self._write_configuration(found)
        if route == "user":
            found = replace(found, login=self._hold_login())
        if options.munge:
            self._say("starting munged")
            daemons.start_munged(self.folder, found.host)
        if route != "none":
            self._say(f"making {options.nodes} networks in {chosen.subnet}.0/24")
            found = self._make_networks(found)
        record.write(self.folder, found)
        self._say(f"starting slurmctld on port {chosen.controller_port}")
        self.controller.start()
        self._say(f"starting {options.nodes} slurmd")
        for node in self.nodes:
            node.start_daemon()
        self._wait_idle()

    def _route(self, options: Options) -> Route:
        if options.layout == "multi":
            return "none"
        routes: tuple[Route, ...] = ("root", "user")
        reasons = []
        for route in routes:
            reason = namespaces.possible(route)
            if not reason:
                return route
            reasons.append(f"{route}: {reason}")
        told = f"No namespaces can be made here ({'; '.join(reasons)})."
        if options.layout == "netns":
            raise SandboxError(f"layout=netns: {told} Take layout=multi, or a kernel and container that allow them.")
        self._say(f"{told} All nodes share 127.0.0.1: no cuts, no own host names (layout multi)")
        return "none"

    def _networks_in_use(self, route: Route) -> list[IPv4Network] | None:
        if route == "root":
            return namespaces.networks(Place(route="root"))
        # Without root the machine's end of the cables is in a new network, where nothing is in use.
        return [] if route == "user" else None

    def _make_folder(self) -> None:
        if len(str(self.folder)) > LONGEST_FOLDER:
            raise SandboxError(
                f"{self.folder}: {len(str(self.folder))} characters; sockets in it allow {LONGEST_FOLDER}. "
                "Name a shorter folder with --dir or ORCH_SANDBOX."
            )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.folder.stat()
        if found.st_uid != os.geteuid():
            raise SandboxError(f"{self.folder}: belongs to user {found.st_uid}. Name another folder with --dir.")
        strangers = {path.name for path in self.folder.iterdir()} - daemons.OWN_NAMES
        if strangers:
            raise SandboxError(
                f"{self.folder}: holds what is no sandbox's ({', '.join(sorted(strangers)[:3])}). Name an empty folder."
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            self.folder.chmod(0o700)

    def _make_devices(self, options: Options) -> None:
        for number in range(options.gpus):
            (self.folder / "dev" / f"gpu{number}").symlink_to("/dev/null")

    def _write_configuration(self, found: Record) -> None:
        site = configuration.Site(
            folder=self.folder,
            addresses=found.addresses,
            hostname=socket.gethostname().partition(".")[0],
            user=pwd.getpwuid(os.getuid()).pw_name,
            proctrack=found.proctrack,
        )
        texts = {
            "slurm.conf": configuration.slurm_conf(found.options, site),
            "gres.conf": configuration.gres_conf(found.options, self.folder),
            "cgroup.conf": cgroups.configuration(found.proctrack),
            "hosts": configuration.hosts(found.options, site),
            "nsswitch.conf": configuration.NSSWITCH,
        }
        for name, text in texts.items():
            (self.folder / "etc" / name).write_text(text, encoding="utf-8")

    def _hold_login(self) -> int:
        ready = self.folder / "run" / "login.ready"
        script = namespaces.holder_script(ready=ready, hostname=socket.gethostname(), etc=self.folder / "etc")
        pid = daemons.start([*namespaces.NEW_LOGIN, "sh", "-c", script], self.folder, "login")
        daemons.wait_for(ready.exists, pid, self.folder, "login")
        return pid

    def _make_networks(self, found: Record) -> Record:
        bridge = addresses.bridge(self.folder)
        holders = {}
        for name in found.options.node_names:
            binds = cgroups.make(self.folder, name) if found.proctrack == "cgroup" else ()
            ready = self.folder / "run" / f"{name}.ready"
            script = namespaces.holder_script(ready=ready, hostname=name, etc=self.folder / "etc", binds=binds)
            argv = found.host.as_root([*namespaces.NEW_NODE, "sh", "-c", script])
            holders[name] = daemons.start(argv, self.folder, f"holder-{name}")
        for name, pid in holders.items():
            ready = self.folder / "run" / f"{name}.ready"
            daemons.wait_for(ready.exists, pid, self.folder, f"holder-{name}")
        found = replace(found, holders=holders)
        commands = [
            f"link add {bridge} type bridge",
            f"addr add {found.addresses.host}/24 dev {bridge}",
            f"link set {bridge} up",
        ]
        for number, pid in enumerate(holders.values(), 1):
            cable = addresses.cable(self.folder, number)
            commands += [
                f"link add {cable} type veth peer name eth0 netns {pid}",
                f"link set {cable} master {bridge} up",
            ]
        namespaces.network_commands(found.host, commands)
        for number, name in enumerate(holders, 1):
            namespaces.network_commands(
                found.node(name),
                [
                    f"addr add {found.addresses.node(number)}/24 dev eth0",
                    "link set eth0 up",
                    # Leads nowhere else, but programs ask for the default route to learn their own address.
                    f"route add default via {found.addresses.host}",
                ],
            )
        return found

    def _wait_idle(self) -> None:
        self._say("waiting for the nodes")
        wanted = set(self.options.node_names)
        until = time.monotonic() + START_S
        while True:
            listed = self.run(["sinfo", "--noheader", "--Node", "--format=%N %T"]).stdout.split("\n")
            idle = {line.split()[0] for line in listed if line.endswith(" idle")}
            if idle >= wanted:
                return
            if time.monotonic() >= until:
                missing = ", ".join(sorted(wanted - idle))
                raise SandboxError(f"{missing}: not idle {START_S:.0f} s after the start. See {self.folder}/log/.")
            time.sleep(POLL_S)

    def _clear(self) -> None:
        cgroups.thaw(self.folder)
        left = members.end_all(self.folder, STOP_S)
        problems = [f"process {process.pid} does not end" for process in left]
        try:
            names = (addresses.bridge(self.folder), addresses.cable(self.folder, 0)[:-1])
            problems += [f"interface {name} is left" for name in namespaces.remove_links(Place(route="root"), names)]
        except NamespaceError as error:
            problems += [str(error)]
        problems += [f"{path} is left" for path in cgroups.remove(self.folder)]
        if problems:
            raise SandboxError(f"{self.folder}: not all could be removed: {'; '.join(problems)}. Try again.")
        for path in self.folder.iterdir():
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
