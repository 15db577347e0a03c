"""The nodes' networks, host names and mounts, with root or without where the kernel allows it.

A namespace lives as long as a process in it, and every node has one that only sleeps: its *holder*. Nothing is
registered anywhere, so when the holders are killed, networks and cables are gone.

Without root, a namespace of users is made first, in which we are root: there the machine's end of the cables is. Slurm
refuses to run as such a root, which cannot give up groups, so daemons and clients run one namespace of users deeper,
under their own user id.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Route = Literal["root", "user", "none"]
"""How namespaces are made: as root, in a namespace of users, or not at all."""

COMMAND_TIMEOUT_S = 10
PROBE = "ip link add obprobe type bridge && ip link add ovprobe type veth peer name ovpeer"
NEW_NODE = ("unshare", "--net", "--uts", "--mount", "--propagation", "slave", "--")
NEW_LOGIN = ("unshare", "--user", "--map-root-user", "--net", "--uts", "--mount", "--propagation", "slave", "--")


class NamespaceError(Exception):
    """A command that makes or joins namespaces failed; the message is its own."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a command runs: the machine itself, or the namespaces of a holder.

    Attributes:
        route: How the namespaces were made.
        holder: Pid of the process whose namespaces are joined. None: the machine itself.
    """

    route: Route
    holder: int | None = None

    def as_root(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs ``argv`` here with power over network and mounts."""
        if self.holder is None:
            return list(argv)
        user = ["--user", "--preserve-credentials"] if self.route == "user" else []
        return ["nsenter", f"--target={self.holder}", *user, "--net", "--uts", "--mount", "--", *argv]

    def as_user(self, argv: Sequence[str], folder: Path) -> list[str]:
        """Return the command line that runs ``argv`` here, in ``folder``, as the user whose sandbox it is."""
        if self.holder is None:
            return list(argv)
        # Joining a mount namespace leads to its root folder, so the way back is part of the command.
        inside = ["env", f"--chdir={folder}", *argv]
        if self.route == "user":
            inside = ["unshare", "--user", f"--map-user={os.getuid()}", f"--map-group={os.getgid()}", "--", *inside]
        return self.as_root(inside)


def possible(route: Route) -> str:
    """Return why this machine cannot make namespaces by that route; empty if it can."""
    if route == "root" and os.geteuid() != 0:
        return "we are not root"
    new = ["unshare", "--net", "--uts", "--mount", "--"] if route == "root" else list(NEW_LOGIN)
    probe = PROBE
    if route == "user":
        deeper = ["unshare", "--user", f"--map-user={os.getuid()}", f"--map-group={os.getgid()}", "--", "true"]
        probe = f"{PROBE} && {shlex.join([*NEW_NODE, *deeper])}"
    try:
        execute([*new, "sh", "-c", probe])
    except NamespaceError as error:
        return str(error)
    return ""


def execute(argv: Sequence[str], text: str = "") -> str:
    """Run a command with ``text`` on its standard input and return its output.

    Raises:
        NamespaceError: It is not there, failed, or took longer than 10 s.
    """
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False, env=_environment()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NamespaceError(f"{argv[0]}: {error}") from error
    if done.returncode != 0:
        raise NamespaceError(f"{argv[0]}: exit code {done.returncode}, {done.stderr.strip()}")
    return done.stdout


def network_commands(place: Place, commands: Sequence[str]) -> None:
    """Run several ``ip`` commands, without the word ``ip``, in one process."""
    execute(place.as_root(["ip", "-batch", "-"]), "\n".join(commands) + "\n")


def networks(place: Place) -> list[ipaddress.IPv4Network]:
    """Return all IPv4 networks that have a route, the default route left out."""
    routes = json.loads(execute(place.as_root(["ip", "-json", "-4", "route", "show", "table", "all"])) or "[]")
    found = [route["dst"] for route in routes if route.get("dst", "default") != "default"]
    return [ipaddress.IPv4Network(destination, strict=False) for destination in found]


def remove_links(place: Place, prefixes: tuple[str, ...]) -> list[str]:
    """Remove all network interfaces whose names start so; return the names of those that are left."""
    for name in _links(place, prefixes):
        # One end of a cable takes the other with it, so the list may be shorter by now.
        subprocess.run(
            place.as_root(["ip", "link", "delete", name]),
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            env=_environment(),
        )
    return _links(place, prefixes)


def holder_script(*, ready: Path, hostname: str, etc: Path, binds: Sequence[tuple[Path, Path]] = ()) -> str:
    """Return the shell script of a holder: name the node, give it its own files, say so, sleep.

    Args:
        ready: File that is made when all is in place.
        hostname: The node's name.
        etc: Folder with ``hosts`` and ``nsswitch.conf``.
        binds: More folders to mount: what, and over what.
    """
    over = [(etc / name, Path("/etc") / name) for name in ("hosts", "nsswitch.conf") if (Path("/etc") / name).exists()]
    mounts = [f"mount --bind {shlex.quote(str(what))} {shlex.quote(str(where))}" for what, where in [*over, *binds]]
    return "\n".join(
        [
            "set -e",
            f"hostname {hostname}",
            "ip link set lo up",
            *mounts,
            f": > {shlex.quote(str(ready))}",
            "exec sleep infinity",
        ]
    )


def _links(place: Place, prefixes: tuple[str, ...]) -> list[str]:
    links = json.loads(execute(place.as_root(["ip", "-json", "link", "show"])) or "[]")
    return [link["ifname"] for link in links if link["ifname"].startswith(prefixes)]


def _environment() -> dict[str, str]:
    # Debian keeps ip, munged and Slurm's daemons where an ordinary user's PATH does not look.
    return {**os.environ, "PATH": os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"}
