"""A service that answers like a judge: key and model name checked, endpoint published and leased.

Settings: ``never`` does not publish; ``silent_after_s`` stops renewing; ``fail`` ends at once with
this code in the first ``times`` starts.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from orchestrator import plan, rendezvous
from orchestrator.rendezvous import Endpoint
from orchestrator.run_directory import RunDirectory
from tests.orchestrator.allocation.fakes.backend import Backend
from tests.orchestrator.allocation.fakes.batch import count_start


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--role")
    given = parser.parse_args()
    run = RunDirectory(given.run_dir)
    settings = plan.load(run.plan).role(given.role).settings
    start = count_start(run, given.role)
    if "fail" in settings and start <= settings.get("times", 1_000):
        print(settings.get("say", "error: told to fail"), flush=True)
        return int(settings["fail"])
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda _number, _frame: ended.set())
    nonce = secrets.token_hex(4)
    key = rendezvous.read_key(rendezvous.api_key(run, f"{given.role}-backend"))
    backend = Backend(model=f"fake-{nonce}", key=key, name=f"start {start}", host=rendezvous.own_address())
    while not ended.is_set():
        if not settings.get("never"):
            rendezvous.publish(
                run,
                Endpoint(
                    name=f"{given.role}-{os.environ['ORCH_REPLICA']}",
                    url=backend.url,
                    model=backend.model,
                    api_key_file=str(run.secrets / f"{given.role}-backend.key"),
                    generation=int(os.environ["ORCH_GENERATION"]),
                    nonce=nonce,
                    pid=os.getpid(),
                    host=socket.gethostname(),
                    lease_until=time.time() + 30,
                ),
            )
        ended.wait(0.2)
    backend.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
