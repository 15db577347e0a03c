"""A Ray of one's own: private, and without a say in how the trainer ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from jobs.entry import DRAINED
from jobs.grpo.checkpoint import steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
CHECKOUT = Path(__file__).parents[3]

START = """
import asyncio, os, signal, stat, sys
from pathlib import Path
from jobs import entry
from jobs.grpo import cluster
from jobs.grpo.ray_session import RaySession
from orchestrator.ledger import Ledger
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory

run = RunDirectory(Path(sys.argv[1]))
run.create()
context = entry.Context(
    run=run, role="train", generation=1, plan=None,
    ledger=Ledger(run.ledger, 1), progress=Progress(run.progress, "train"),
)

async def main():
    drain = entry.Drain().listen()
    session = await RaySession.start(context, cluster.own(context))
    os.kill(os.getpid(), signal.SIGTERM)
    token = os.environ["RAY_AUTH_TOKEN_PATH"]
    print("ANSWER", drain.requested, oct(stat.S_IMODE(os.stat(token).st_mode)), Path(token).parent == run.secrets)
    session.close()
    left = [path.name for path in (*run.role("train").iterdir(), *run.secrets.iterdir())]
    print("LEFT", os.path.exists(token), left)

asyncio.run(main())
"""


STRANGER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("IN", ray.get(ray.remote(lambda: 7).remote()))
"""


@pytest.mark.parametrize("mode", ["disabled", "token", "token and its file"])
def test_only_who_has_the_token_gets_work_done(tmp_path: Path, mode: str) -> None:
    waits = START.replace("os.kill(os.getpid(), signal.SIGTERM)", "print(session._head.address, flush=True); input()")
    command = [sys.executable, "-c", waits, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=CHECKOUT, text=True, **pipes) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        address = session.stdout.readline().strip()
        env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        env |= {"HOME": str(tmp_path), "RAY_AUTH_MODE": mode.partition(" ")[0]}
        if "file" in mode:
            env["RAY_AUTH_TOKEN_PATH"] = str(next((tmp_path / "secrets").glob("train-ray-*.key")))
        try:
            stranger = [sys.executable, "-c", STRANGER, address]
            done = subprocess.run(stranger, env=env, capture_output=True, text=True, timeout=120, check=False)
        finally:
            session.stdin.close()
            session.wait(60)
    if "file" in mode:
        assert "IN 7" in done.stdout, done.stderr
    else:
        assert done.returncode != 0
        assert "IN 7" not in done.stdout
        assert "token" in (done.stdout + done.stderr).lower()


def test_a_signal_is_still_only_recorded_and_the_token_is_private(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START, str(tmp_path)], cwd=CHECKOUT, capture_output=True, text=True, timeout=200
    )

    assert "ANSWER True 0o600 True" in done.stdout, done.stderr[-2000:]
    assert "LEFT False ['ray.json']" in done.stdout


def test_a_trainer_on_ray_that_is_asked_to_stop_saves_and_says_so(
    tmp_path: Path, policy_folder: Path, data_file: Path
) -> None:
    settings = {
        "model": str(policy_folder),
        "data": {"path": str(data_file)},
        "rewards": {"repetition": {"weight": 1.0, "ngram": 1}},
        "engine": {"max_new_tokens": 8},
        "steps": 100_000,
        "prompts_per_step": 4,
        "samples_per_prompt": 2,
        "checkpoint": {"every_steps": 99_999},
    }
    file, out = tmp_path / "grpo.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(settings))
    trainer = subprocess.Popen(
        [sys.executable, "-m", "jobs.grpo", "--settings", str(file), "--out", str(out)],
        cwd=CHECKOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 120
        while len(lines(out / "metrics.jsonl")) < 2:
            assert trainer.poll() is None, trainer.stderr.read() if trainer.stderr else ""
            assert time.monotonic() < until, "two steps within 120 s"
            time.sleep(0.2)

        trainer.send_signal(signal.SIGTERM)
        _, said = trainer.communicate(timeout=60)
    finally:
        trainer.kill()

    assert trainer.returncode == DRAINED, said[-2000:]
    assert steps(out / "checkpoints") == [lines(out / "metrics.jsonl")[-1]["step"]]


def lines(path: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
