"""Trainer and judge without us, for the peers: they find each other by a file.

python -m bench.stand_in.alone trainer FOLDER --step-s 0.05
python -m bench.stand_in.alone judge FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from bench.stand_in import marks, work
from tests.orchestrator.allocation.fakes.backend import Backend

MODEL = "stand-in"
RETRY_S = 0.05
GIVE_UP_S = 62.0
"""After so long without a judge the trainer fails, as TRL's client does."""


def trainer(folder: Path, step_s: float, *, drains: bool = True) -> int:
    """Train without end; ``drains`` says whether a SIGTERM is obeyed, or left to who passes by it."""
    asked = work.hear(folder, (signal.SIGTERM,))
    return work.train(folder, steps=10**9, step_s=step_s, ask=lambda: ask(folder), asked=asked if drains else [])


def ask(folder: Path) -> str:
    """Ask the judge until it answers, and return its name."""
    until = time.monotonic() + GIVE_UP_S
    while True:
        try:
            return _ask_once(folder)
        except (OSError, urllib.error.URLError):
            if time.monotonic() > until:
                raise
            time.sleep(RETRY_S)


def judge(folder: Path, *, drains: bool = True) -> int:
    """Serve until asked to end."""
    asked = work.hear(folder, (signal.SIGTERM,))
    key = secrets.token_hex(16)
    backend = Backend(model=MODEL, key=key, name=f"pid {os.getpid()}", host=own_address())
    draft = folder / f".judge.{os.getpid()}"
    draft.write_text(json.dumps({"url": backend.url, "key": key}))
    draft.rename(folder / "judge.json")
    marks.write(folder, "judge")
    while not (asked and drains):
        time.sleep(0.1)
    backend.close()
    return work.DRAINED


def own_address() -> str:
    """Return the address by which other nodes reach this one."""
    return socket.gethostbyname(socket.gethostname())


def _ask_once(folder: Path) -> str:
    known = json.loads((folder / "judge.json").read_text())
    request = urllib.request.Request(
        f"{known['url']}/chat/completions",
        data=json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}).encode(),
        headers={"Authorization": f"Bearer {known['key']}", "Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=5) as response:
        return str(json.loads(response.read())["from"])


def main() -> int:
    """Be one of the two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("trainer", "judge"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--step-s", type=float, default=0.05)
    given = parser.parse_args()
    return trainer(given.folder, given.step_s) if given.role == "trainer" else judge(given.folder)


if __name__ == "__main__":
    sys.exit(main())
