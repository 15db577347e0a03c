"""How roles find each other: endpoint files, output files and placeholders.

A service publishes ``endpoints/<role>-<replica>.json`` once it has answered a request; the
gateway publishes ``endpoints/<role>.json``, the one stable URL that other roles use. A finished
role publishes ``outputs/<role>.json``. Settings may name both: ``{judge.url}``, ``{tiny.policy}``.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import ConflictError, InputError
from orchestrator.files import PRIVATE_FILE, private_folder, read_json, sync_folder, write_json, write_text
from orchestrator.run_directory import RunDirectory

LOOPBACK = "127.0.0.1"
OWN_JOB = 0
"""The generation of a service in a job of its own, which outlives attempts: its lease alone is believed."""
PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_-]*)\.([a-z][a-z0-9_]*)\}")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server that has answered.

    Attributes:
        name: ``"judge-0"`` for a replica, ``"judge"`` for the gateway's address of all of them.
        url: Base URL of the OpenAI API, ending in ``/v1``.
        model: The name to ask for; unique to this start, so that an old server answers 404.
        api_key_file: Path of the 0600 file that holds the key. Never the key itself.
        generation: The attempt that published it.
        nonce: Drawn anew at every start of the server.
        pid: The server's process id on ``host``.
        host: Where it runs.
        lease_until: Unix time, seconds; later than this the file says nothing.
    """

    name: str
    url: str
    model: str
    api_key_file: str
    generation: int
    nonce: str
    pid: int
    host: str
    lease_until: float


def publish(run: RunDirectory, endpoint: Endpoint) -> None:
    """Write the endpoint's file, atomically and 0600. Call again to renew the lease.

    Raises:
        ConflictError: A newer attempt has published its own; ours, from a node that was cut off, would hide it.
    """
    path = private_folder(run.endpoints) / f"{endpoint.name}.json"
    known = read_json(path)
    if known is not None and known["generation"] > endpoint.generation:
        raise ConflictError(
            f"endpoints/{path.name}: attempt {known['generation']} has published its own; attempt "
            f"{endpoint.generation} may not any more. This process ends; nothing is to be done."
        )
    write_json(path, asdict(endpoint))


def withdraw(run: RunDirectory, name: str, nonce: str) -> None:
    """Remove the endpoint's file, unless a later start has published its own."""
    path = run.endpoints / f"{name}.json"
    record = read_json(path)
    if record is not None and record["nonce"] == nonce:
        path.unlink(missing_ok=True)


def lookup(run: RunDirectory, name: str, *, generation: int) -> Endpoint | None:
    """Return the live endpoint of that name, or None if there is none to be trusted.

    A file is not trusted if another user owns it, if others can read or write it, if its lease
    has run out, or if a generation other than ``generation`` wrote it (or ``OWN_JOB``): such a file
    may point at a node that belongs to someone else by now.
    """
    path = run.endpoints / f"{name}.json"
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    trusted = (
        stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) == PRIVATE_FILE
    )
    record = read_json(path) if trusted else None
    if record is None:
        return None
    endpoint = Endpoint(**record)
    if endpoint.generation not in (generation, OWN_JOB) or endpoint.lease_until < time.time():
        return None
    return endpoint


def api_key(run: RunDirectory, name: str) -> Path:
    """Return the 0600 file that holds the key called ``name``, made on first use."""
    import secrets  # brings hashes and random numbers along: 15 ms that no other use of this module needs

    path = private_folder(run.secrets) / f"{name}.key"
    if path.exists():
        return path
    whole = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    write_text(whole, secrets.token_urlsafe(32))
    # Linked and not renamed: whoever is first makes the key, and all others get that one.
    with suppress(FileExistsError):
        os.link(whole, path)
    whole.unlink()
    sync_folder(path.parent)
    return path


def publish_outputs(run: RunDirectory, role: str, outputs: dict[str, str]) -> None:
    """Hand results of a finished role to later ones: ``{tiny.policy}`` reads key ``policy``."""
    private_folder(run.outputs)
    write_json(run.outputs / f"{role}.json", outputs)


def fill(settings: Any, values: dict[str, dict[str, str]]) -> Any:
    """Return ``settings`` with every ``{role.key}`` in its strings replaced, at any depth.

    Args:
        settings: JSON-like data.
        values: For every role, its endpoint's or outputs' fields.

    Raises:
        InputError: A placeholder names a key that the role has not published; lists those it has.
    """
    if isinstance(settings, dict):
        return {key: fill(value, values) for key, value in settings.items()}
    if isinstance(settings, list):
        return [fill(value, values) for value in settings]
    if not isinstance(settings, str):
        return settings

    def one(match: re.Match[str]) -> str:
        role, key = match.groups()
        if role not in values:
            return match.group(0)
        if key not in values[role]:
            known = ", ".join(sorted(values[role])) or "nothing"
            raise InputError(f"{match.group(0)}: role {role!r} publishes no {key!r}. It has: {known}.")
        return values[role][key]

    return PLACEHOLDER.sub(one, settings)


def published_values(run: RunDirectory, roles: tuple[str, ...], *, generation: int) -> dict[str, dict[str, str]]:
    """Return what ``fill`` needs: outputs of finished roles and addresses of live services."""
    values: dict[str, dict[str, str]] = {}
    for role in roles:
        known: dict[str, str] = dict(read_json(run.outputs / f"{role}.json") or {})
        endpoint = lookup(run, role, generation=generation)
        if endpoint is not None:
            known |= {"url": endpoint.url, "model": endpoint.model, "api_key_file": endpoint.api_key_file}
        if known:
            values[role] = known
    return values


def own_address() -> str:
    """Return the IPv4 address under which the other nodes of the run reach this one.

    Asked of the kernel's routes, as a connection to the supervisor's node would go: a host name may
    resolve to 127.0.1.1 (Debian) or to an interface that the other nodes do not see. On a machine
    without a scheduler that is the loopback, so nothing listens on the network.
    """
    leader = os.environ.get("ORCH_LEADER")
    if not leader:
        return LOOPBACK
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((leader, 9))  # No packet is sent: for a datagram socket this only looks up the route.
        return str(probe.getsockname()[0])


def read_key(path: str | Path) -> str:
    """Return the key in a key file."""
    return Path(path).read_text(encoding="utf-8").strip()
