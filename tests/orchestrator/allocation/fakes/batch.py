"""A batch role that does what its settings say, in this order:

spawn        leave a grandchild behind that ignores SIGTERM and has left the session
drain        "exit 75" on SIGTERM or SIGUSR2 (the default), or "ignore" them
checkpoint   commit a checkpoint, named after the number of this start
ask          send one chat completion to this service and keep the answer in <role>.answer
say          print these lines
hang         say once what it does and stop for ever, in the first ``times`` starts
sleep_s      wait, looking at SIGTERM, in the first ``times`` starts
kill         end by this signal, in the first ``times`` starts
fail         end with this code, in the first ``times`` starts
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from orchestrator import plan, rendezvous
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory

GRANDCHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--role")
    given = parser.parse_args()
    run = RunDirectory(given.run_dir)
    settings = plan.load(run.plan).role(given.role).settings
    asked: list[int] = []
    if settings.get("drain") == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
        signal.signal(signal.SIGUSR2, lambda number, _frame: asked.append(number))
    start = count_start(run, given.role)
    is_early = start <= settings.get("times", 1_000)
    if settings.get("spawn"):
        child = subprocess.Popen([sys.executable, "-c", GRANDCHILD], start_new_session=True, env={})
        (run.path / f"{given.role}.grandchild").write_text(str(child.pid))
    if settings.get("checkpoint"):
        folder = run.checkpoints / f"step_{start:08d}"
        folder.mkdir(parents=True)
        (folder / "MANIFEST.json").write_text("{}")
    if "ask" in settings:
        (run.path / f"{given.role}.answer").write_text(ask(run, settings["ask"]))
    for line in settings.get("say", ()):
        print(line, flush=True)
    if settings.get("hang") and is_early:
        Progress(run.progress, given.role).update("training", 1, 2)
        os.kill(os.getpid(), signal.SIGSTOP)
    until = time.monotonic() + (settings.get("sleep_s", 0) if is_early else 0)
    while time.monotonic() < until:
        if asked:
            print("drained", flush=True)
            return 75
        time.sleep(0.02)
    if is_early and "kill" in settings:
        os.kill(os.getpid(), settings["kill"])
    if is_early and "fail" in settings:
        return int(settings["fail"])
    rendezvous.publish_outputs(run, given.role, {"done": str(start)})
    return 0


def count_start(run: RunDirectory, role: str) -> int:
    """Return the how-manieth start this is, over all attempts."""
    file = run.path / f"{role}.starts"
    with open(file, "a") as starts:
        starts.write(f"{os.environ['ORCH_GENERATION']} {time.time()}\n")
    return len(file.read_text().splitlines())


def ask(run: RunDirectory, service: str) -> str:
    endpoint = rendezvous.lookup(run, service, generation=int(os.environ["ORCH_GENERATION"]))
    assert endpoint is not None
    messages = [{"role": "user", "content": "hi"}]
    request = urllib.request.Request(
        f"{endpoint.url}/chat/completions",
        data=json.dumps({"model": endpoint.model, "messages": messages, "max_tokens": 4}).encode(),
        headers={"Authorization": f"Bearer {rendezvous.read_key(endpoint.api_key_file)}"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=240) as response:
        return str(response.read().decode())


if __name__ == "__main__":
    sys.exit(main())
