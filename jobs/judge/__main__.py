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
from dataclasses import replace
from pathlib import Path

from jobs import entry
from jobs.judge.readiness import Probe
from jobs.judge.server import HOST, Server, build
from jobs.judge.settings import Settings, lost_model
from orchestrator import processes, rendezvous
from orchestrator.errors import InputError, OrchestratorError, RunFailed
from orchestrator.rendezvous import Endpoint

CHECKOUT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 600.0
DRAIN_S = 30.0
LEASE_S = 30.0
CHECK_EVERY_S = 5.0
HUNG_S = 60.0
"""A server that has not said for so long that it is healthy is ended, and with it this role."""
TICK_S = 0.2


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
    nonce = secrets.token_hex(8)
    server = build(settings, port=_free_port(), nonce=nonce, key=rendezvous.read_key(key_file), base=os.environ)
    endpoint = _endpoint(context, server, key_file, nonce)
    probe = Probe(server=server, key=rendezvous.read_key(key_file))
    process = _start(server)
    try:
        if _wait_until_ready(context, settings, server, probe, process, stopped):
            _keep_published(context, endpoint, probe, process, stopped)
    finally:
        rendezvous.withdraw(context.run, endpoint.name, nonce)
        _end(process, _role(context, "drain_s", DRAIN_S))
    return 0


def _wait_until_ready(
    context: entry.Context,
    settings: Settings,
    server: Server,
    probe: Probe,
    process: subprocess.Popen[bytes],
    stopped: Callable[[], bool],
) -> bool:
    """Return True once the server has answered; False if we are told to stop before."""
    limit_s = _role(context, "start_timeout_s", START_TIMEOUT_S)
    began = time.monotonic()
    while not stopped():
        waited_s = time.monotonic() - began
        _raise_if_ended(process, server)
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
    probe: Probe,
    process: subprocess.Popen[bytes],
    stopped: Callable[[], bool],
) -> None:
    """Renew the endpoint's lease as long as the server says that it is healthy."""
    healthy_at = time.monotonic()
    checked_at = float("-inf")
    while not stopped():
        _raise_if_ended(process, probe.server)
        if time.monotonic() - checked_at >= CHECK_EVERY_S:
            checked_at = time.monotonic()
            if probe.healthy():
                healthy_at = time.monotonic()
                rendezvous.publish(context.run, _leased(endpoint))
        if time.monotonic() - healthy_at > HUNG_S:
            raise RunFailed(f"The {probe.server.engine} server has not been healthy for {HUNG_S:g} s.")
        time.sleep(TICK_S)


def _endpoint(context: entry.Context, server: Server, key_file: Path, nonce: str) -> Endpoint:
    return Endpoint(
        name=f"{context.role}-{os.environ.get('ORCH_REPLICA', '0')}",
        url=f"http://{HOST}:{server.port}/v1",
        model=server.model,
        api_key_file=str(key_file),
        generation=context.generation,
        nonce=nonce,
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


def _raise_if_ended(process: subprocess.Popen[bytes], server: Server) -> None:
    code = process.poll()
    if code is not None:
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        raise RunFailed(f"The {server.engine} server ended {how}. Its own last words are above.")


def _end(process: subprocess.Popen[bytes], drain_s: float) -> None:
    """Ask the server to end and wait, leaving time to kill it before we are killed ourselves."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=max(1.0, drain_s - 5.0))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=5.0)


def _role(context: entry.Context, field: str, otherwise: float) -> float:
    """Return a number of the plan's role; ``otherwise`` for a job started by hand."""
    return float(getattr(context.plan.role(context.role), field)) if context.plan else otherwise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
