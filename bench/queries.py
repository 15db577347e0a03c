"""How many requests to Slurm's controller it costs to look at a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.figures import Figure
from bench.peers import CHECKOUT
from bench.peers.submitit_job import Submitit
from bench.peers.torchx import TorchX
from bench.rounds import START_S, STEP_S, recipe, wait
from bench.stand_in import marks
from tests.slurm_runs import Cluster

LOOKS = 5
STATUS = "requests to slurmctld a look at the state"
FOLLOW = "requests to slurmctld a minute of following"
MINUTE_S = 60.0
SACCT = '#!/bin/sh\necho >> {log}\nexec {sacct} "$@"\n'


def measure(
    cluster: Cluster, folder: Path, torchx: Path | None, follow_s: float, say: Callable[[str], None]
) -> list[Figure]:
    """Return the figures; no job starts or ends meanwhile, so all requests are those of whoever looks."""
    say("queries: our run starts")
    run = cluster.submit(recipe("slice", step_s=STEP_S))
    wait(lambda: marks.read(run.directory.path, "step"), "steps", START_S)
    time.sleep(5)
    say(f"queries: quiet for {follow_s:.0f} s, then logs -f as long")
    quiet = _requests(cluster, lambda: time.sleep(follow_s))
    looks = [float(_requests(cluster, lambda: _status(cluster, run.directory.name))) for _ in range(LOOKS)]
    follow = [sys.executable, "-m", "orchestrator", "logs", run.directory.name, "-f"]
    followed = _requests(cluster, lambda: _for(follow, cluster.env, follow_s))
    cluster.verb("cancel", run.directory.name)
    run.wait_end("CANCELLED")
    note = f"{quiet} in {follow_s:.0f} s without anybody looking"
    found = [
        Figure(what=STATUS, who="status", values=looks, goal=1),
        Figure(what=FOLLOW, who="logs -f", values=[followed * MINUTE_S / follow_s], goal=0, note=note),
    ]
    return [*found, *_submitit(cluster, folder, follow_s, say), *_torchx(cluster, folder, torchx, say)]


def _submitit(cluster: Cluster, folder: Path, follow_s: float, say: Callable[[str], None]) -> list[Figure]:
    say("queries: submitit")
    peer = Submitit(cluster.sandbox, folder / "queries-submitit", STEP_S)
    peer.submit()
    wait(lambda: peer.marks("step"), "submitit: steps", START_S)
    time.sleep(5)
    env, log = _counting_sacct(cluster, folder)
    argv = [sys.executable, "-m", "bench.peers.submitit_job", "watch", str(peer.folder), peer.job, str(follow_s)]
    answers: list[str] = []
    count = _requests(cluster, lambda: answers.append(_output(argv, env, follow_s + 60)))
    asked = len(log.read_text().splitlines()) if log.exists() else 0
    peer.cancel()
    note = f"and {asked * MINUTE_S / follow_s:.0f} sacct (slurmdbd); without slurmdbd the answer is {answers[0]}"
    return [Figure(what=FOLLOW, who="submitit, Job.state every second", values=[count * 60 / follow_s], note=note)]


def _torchx(cluster: Cluster, folder: Path, torchx: Path | None, say: Callable[[str], None]) -> list[Figure]:
    if torchx is None:
        return [Figure(what=STATUS, who="TorchX", note="not installed; see --cache")]
    say("queries: TorchX")
    peer = TorchX(cluster.sandbox, folder / "queries-torchx", STEP_S, torchx)
    peer.submit()
    wait(lambda: peer.marks("step"), "TorchX: steps", START_S)
    time.sleep(5)
    env, _ = _counting_sacct(cluster, folder)
    argv = [str(peer.torchx), "status", f"slurm://torchx/{peer.job}"]
    codes: list[int] = []
    counts = [
        float(_requests(cluster, lambda: codes.append(subprocess.run(argv, env=env, capture_output=True).returncode)))
        for _ in range(LOOKS)
    ]
    peer.cancel()
    note = f"one sacct (slurmdbd); without slurmdbd it fails with exit code {codes[0]}" if codes[0] else "one sacct"
    return [Figure(what=STATUS, who="TorchX", values=counts, note=note)]


def _requests(cluster: Cluster, act: Callable[[], object]) -> int:
    before = cluster.sandbox.rpcs().of_clients
    act()
    return cluster.sandbox.rpcs().of_clients - before


def _status(cluster: Cluster, name: str) -> None:
    done = cluster.verb("status", name)
    assert done.returncode == 0, done.stderr


def _for(argv: list[str], env: dict[str, str], seconds: float) -> None:
    """Run a command for a time and end it; it must not end by itself."""
    child = subprocess.Popen(argv, env=env, cwd=CHECKOUT, stdout=subprocess.DEVNULL)
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return
    else:
        raise RuntimeError(f"{' '.join(argv)}: ended by itself with {child.returncode}.")
    finally:
        child.terminate()
        child.wait(10)


def _output(argv: list[str], env: dict[str, str], timeout_s: float) -> str:
    done = subprocess.run(argv, env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=timeout_s, check=True)
    return done.stdout.strip().rpartition("\n")[2]  # submitit's warnings stand before it


def _counting_sacct(cluster: Cluster, folder: Path) -> tuple[dict[str, str], Path]:
    """Return an environment whose sacct counts its calls, and the file with one line for each."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    log = place / "sacct.log"
    shim = place / "sacct"
    shim.write_text(SACCT.format(log=log, sacct=shutil.which("sacct")))
    shim.chmod(0o755)
    return cluster.env | {"PATH": f"{place}{os.pathsep}{os.environ['PATH']}"}, log
