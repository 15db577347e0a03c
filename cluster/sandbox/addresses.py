"""Names, addresses and ports of one sandbox, chosen so that two sandboxes never meet.

Everything comes from a hash of the folder: a sandbox whose record is lost can still be found and removed.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from cluster.sandbox.errors import SandboxError

FIRST_PORT = 20000
LAST_PORT = 32000
"""Below the ports that the kernel gives to outgoing connections."""


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the parts of one sandbox are.

    Attributes:
        controller_port: TCP port of slurmctld.
        subnet: The first three bytes of the nodes' network, ``"10.81.7"``; the machine itself is ``.1``,
            node k is ``.k+1``. Empty if all nodes are 127.0.0.1.
    """

    controller_port: int
    subnet: str

    @property
    def host(self) -> str:
        """The IPv4 address at which nodes reach the controller."""
        return f"{self.subnet}.1" if self.subnet else "127.0.0.1"

    def node(self, number: int) -> str:
        """Return the IPv4 address of node ``number``, counted from 1."""
        return f"{self.subnet}.{number + 1}" if self.subnet else "127.0.0.1"

    def node_port(self, number: int) -> int:
        """Return the TCP port of that node's slurmd."""
        return self.controller_port + number


def digest(folder: Path) -> str:
    """Return eight hexadecimal digits that stand for a folder in the names of interfaces (15 characters at most)."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:8]


def bridge(folder: Path) -> str:
    """Return the name of the sandbox's bridge."""
    return f"ob{digest(folder)}"


def cable(folder: Path, number: int) -> str:
    """Return the name of the machine's end of the cable to node ``number``."""
    return f"ov{digest(folder)}n{number}"


def choose(folder: Path, nodes: int, used: Sequence[IPv4Network] | None) -> Addresses:
    """Return ports and a subnet that nobody uses at the moment.

    Args:
        folder: The sandbox's folder.
        nodes: How many nodes there are.
        used: Networks that the machine has a route to. None: all nodes are on 127.0.0.1.
    """
    subnet = "" if used is None else _free_subnet(folder, used)
    ports = nodes + 1 if used is None else 1
    port = next(port for port in _ports(folder) if all(_free(port + offset) for offset in range(ports)))
    return Addresses(controller_port=port, subnet=subnet)


def _free_subnet(folder: Path, used: Sequence[IPv4Network]) -> str:
    start = int(digest(folder), 16)
    # A machine in a company's network may well have a route to all of 10.0.0.0/8.
    spaces = [f"10.{number >> 8}.{number & 0xFF}" for number in range(0x10000)]
    spaces += [f"172.{16 + (number >> 8)}.{number & 0xFF}" for number in range(0x1000)]
    tried = (spaces[(start + step) % len(spaces)] for step in range(len(spaces)))
    for subnet in tried:
        if not any(network.overlaps(IPv4Network(f"{subnet}.0/24")) for network in used):
            return subnet
    raise SandboxError("network: this machine has a route to all of 10.0.0.0/8 and 172.16.0.0/12. Take layout=multi.")


def _ports(folder: Path) -> Iterator[int]:
    # A stride as wide as the largest sandbox, so that neighbours do not share ports.
    slots = (LAST_PORT - FIRST_PORT) // 100
    start = int(digest(folder), 16)
    for step in range(slots):
        yield FIRST_PORT + (start + step) % slots * 100


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # Connections of an earlier sandbox that wait for their end are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True
