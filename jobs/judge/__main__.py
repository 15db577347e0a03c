"""Serves a judge until it is told to stop.

python -m jobs.judge --run-dir runs/geo3k --role judge
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import entry
from jobs.fence import Fence
from jobs.judge.readiness import Probe
from jobs.judge.server import Server, build
from jobs.judge.settings import Settings, lost_model
from jobs.local_folder import LocalFolder
from orchestrator import processes, rendezvous
from orchestrator.errors import InputError, OrchestratorError, RunFailed
from orchestrator.rendezvous import Endpoint

if TYPE_CHECKING:
    from jobs.judge.front import Front

CHECKOUT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 600.0
DRAIN_S = 30.0
LEASE_S = 30.0
CHECK_EVERY_S = 5.0
HUNG_S = 60.0
"""A server that has not said for so long that it is healthy is ended, and with it this role."""
TICK_S = 0.1


@dataclass(frozen=True)
class Serving:
    """One start of a server with its front.

    Attributes:
        server: How the server was started.
        process: Its process.
        front: The door to it.
        broken: Why the front ended, if it did.
        key_file: The key that clients present to the front.
        nonce: Drawn for this start.
    """

    server: Server
    process: subprocess.Popen[bytes]
    front: Front
    broken: list[BaseException]
    key_file: Path
    nonce: str


def main() -> int:
    """Serve, and return the exit code."""
    try:
        context, settings = entry.start("judge", Settings)
        if lost_model(settings):
            raise InputError(f"roles.{context.role}.with.model: {lost_model(settings)}")
        drain = entry.Drain().listen()
        return serve(context, settings, lambda: drain.requested)
    except OrchestratorError as error:
        return entry.exit_with(error)


def serve(context: entry.Context, settings: Settings, stopped: Callable[[], bool]) -> int:
    """Start the server, publish it when it answers, and end with it.

    Raises:
        RunFailed: The server ended, did not answer in time, or hangs.
    """
    key_file = rendezvous.api_key(context.run, f"{context.role}-backend")
    key, nonce = rendezvous.read_key(key_file), secrets.token_hex(8)
    replica = os.environ.get("ORCH_REPLICA", "0")
    # What the server's death orphans comes to us and not to the guard, which would ask it politely first.
    processes.adopt_orphans()
    with ExitStack() as ending:
        folder = LocalFolder(context.run.role(context.role), f"judge-{replica}")
        ending.callback(folder.close)
        server = build(settings, folder=folder.path, nonce=nonce, key=key, base=os.environ)
        process = _start(server)
        ending.callback(_end, process, _role(context, "drain_s", DRAIN_S))
        front, broken = _open(server, key)
        ending.callback(front.close)
        serving = Serving(server, process, front, broken, key_file, nonce)
        _publish_while_healthy(context, settings, serving, stopped)
    return 0


def _open(server: Server, key: str) -> tuple[Front, list[BaseException]]:
    """Return the front before a started server, and the list where its failure will stand."""
    # Not before the server runs, whose own start takes far longer than this import.
    from jobs.judge.front import Front

    broken: list[BaseException] = []
    return Front(server, key=key, host=rendezvous.own_address(), failed=broken.append), broken


def _publish_while_healthy(
    context: entry.Context, settings: Settings, serving: Serving, stopped: Callable[[], bool]
) -> None:
    endpoint = _endpoint(context, serving)
    probe = Probe(
        host=rendezvous.own_address(),
        port=serving.front.port,
        model=serving.server.model,
        lists_models=serving.server.lists_models,
        key=rendezvous.read_key(serving.key_file),
    )
    try:
        if _wait_until_ready(context, settings, serving, probe, stopped):
            _keep_published(context, endpoint, serving, probe, stopped)
    finally:
        rendezvous.withdraw(context.run, endpoint.name, serving.nonce)


def _wait_until_ready(
    context: entry.Context,
    settings: Settings,
    serving: Serving,
    probe: Probe,
    stopped: Callable[[], bool],
) -> bool:
    """Return True once the server has answered; False if we are told to stop before."""
    limit_s = _role(context, "start_timeout_s", START_TIMEOUT_S)
    server, began = serving.server, time.monotonic()
    while not stopped():
        waited_s = time.monotonic() - began
        _raise_if_ended(serving)
        if waited_s > limit_s:
            raise RunFailed(f"{settings.model}: {server.engine} has not answered within {limit_s:g} s.")
        shown = f"{Path(settings.model).name} with {server.engine}"
        context.progress.update("loading model", round(waited_s, 1), limit_s, unit="s", message=shown)
        if probe.ready():
            context.progress.update("serving", message=f"{shown}, ready after {waited_s:.0f} s")
            return True
        time.sleep(TICK_S)
    return False


def _keep_published(
    context: entry.Context,
    endpoint: Endpoint,
    serving: Serving,
    probe: Probe,
    stopped: Callable[[], bool],
) -> None:
    """Renew the endpoint's lease as long as the server says that it is healthy.

    Raises:
        ConflictError: A newer attempt of the run has begun.
    """
    fence = Fence(context.run.ledger, context.generation)
    healthy_at = time.monotonic()
    checked_at = float("-inf")
    while not stopped():
        _raise_if_ended(serving)
        if time.monotonic() - checked_at >= CHECK_EVERY_S:
            checked_at = time.monotonic()
            fence.check()
            if probe.healthy():
                healthy_at = time.monotonic()
                rendezvous.publish(context.run, _leased(endpoint))
        if time.monotonic() - healthy_at > HUNG_S:
            raise RunFailed(f"The {serving.server.engine} server has not been healthy for {HUNG_S:g} s.")
        time.sleep(TICK_S)


def _endpoint(context: entry.Context, serving: Serving) -> Endpoint:
    return Endpoint(
        name=f"{context.role}-{os.environ.get('ORCH_REPLICA', '0')}",
        url=f"http://{rendezvous.own_address()}:{serving.front.port}/v1",
        model=serving.server.model,
        api_key_file=str(serving.key_file),
        generation=context.generation,
        nonce=serving.nonce,
        pid=os.getpid(),
        host=socket.gethostname(),
        lease_until=0.0,
    )


def _leased(endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, lease_until=time.time() + LEASE_S)


def _start(server: Server) -> subprocess.Popen[bytes]:
    """Start the server so that it ends with this process, even if that is killed."""
    parent = os.getpid()
    return subprocess.Popen(
        server.argv,
        cwd=CHECKOUT,
        env=server.environment,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: processes.die_with_parent(parent),
    )


def _raise_if_ended(serving: Serving) -> None:
    if serving.broken:
        raise RunFailed(f"The front ended: {serving.broken[0]!r}.")
    code = serving.process.poll()
    if code is not None:
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        raise RunFailed(f"The {serving.server.engine} server ended {how}. Its own last words are above.")


def _end(process: subprocess.Popen[bytes], drain_s: float) -> None:
    """Ask the server to end and wait, leaving time to kill it before we are killed ourselves."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=max(1.0, drain_s - 5.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=5.0)
    # vLLM's engine has nothing to save, and takes seconds to notice that its server is gone.
    processes.kill(processes.descendants(os.getpid()))


def _role(context: entry.Context, field: str, otherwise: float) -> float:
    """Return a number of the plan's role; ``otherwise`` for a job started by hand."""
    return float(getattr(context.plan.role(context.role), field)) if context.plan else otherwise


if __name__ == "__main__":
    sys.exit(main())
