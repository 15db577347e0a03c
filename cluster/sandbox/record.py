"""What a running sandbox remembers of itself, in ``sandbox.json`` of its folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.sandbox.addresses import Addresses
from cluster.sandbox.namespaces import Place, Route
from cluster.sandbox.options import Options
from orchestrator import files

NAME = "sandbox.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One sandbox that is up.

    Attributes:
        options: What it was asked to be like.
        addresses: Its addresses and ports.
        route: How its namespaces were made.
        proctrack: The plugin that finds a step's processes.
        login: Pid of the holder of the machine's end; None: that is the machine itself.
        holders: Pid of each node's holder; empty without namespaces.
    """

    options: Options
    addresses: Addresses
    route: Route
    proctrack: str
    login: int | None
    holders: dict[str, int]

    @property
    def host(self) -> Place:
        """Where clients and the controller run."""
        return Place(route=self.route, holder=self.login)

    def node(self, name: str) -> Place:
        """Return where that node's processes run."""
        return Place(route=self.route, holder=self.holders.get(name))


def write(folder: Path, record: Record) -> None:
    """Remember a sandbox."""
    files.write_json(folder / NAME, {**asdict(record), "options": record.options.to_json()})


def read(folder: Path) -> Record | None:
    """Return the sandbox that is remembered in a folder, None if there is none."""
    value: dict[str, Any] | None = files.read_json(folder / NAME)
    if value is None:
        return None
    options, addresses = Options.from_json(value.pop("options")), Addresses(**value.pop("addresses"))
    return Record(options=options, addresses=addresses, **value)
