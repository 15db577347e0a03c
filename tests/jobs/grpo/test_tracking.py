"""Weights & Biases may be absent, slow, broken or hung: training notices none of it, and the log says so once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.grpo import tracking
from jobs.grpo.settings import Wandb

SECRET = "k" * 40
# Stands where the real package would. Notes each call; at the call named by FAKE_AT it does what FAKE_DOES says.
FAKE = """
import json, os, time

def note(call, **given):
    with open(os.environ["FAKE_NOTES"], "a") as file:
        file.write(json.dumps([call, given]) + "\\n")
    if os.environ.get("FAKE_AT") == call:
        if os.environ["FAKE_DOES"] == "hang":
            time.sleep(600)
        if os.environ["FAKE_DOES"] == "be absent":
            raise ModuleNotFoundError("No module named 'wandb'")
        if os.environ["FAKE_DOES"] == "exit":
            raise SystemExit(3)
        raise RuntimeError("no route with key " + os.environ["WANDB_API_KEY"])

class Settings:
    def __init__(self, **given):
        self.given = given

class Run:
    def log(self, metrics, step):
        note("log", step=step, metrics=metrics)

    def finish(self):
        note("finish")

def init(settings, **given):
    note("init", settings=settings.given, **given)
    return Run()

note("import")
"""


class Fake:
    """The fake package: what it is to do, and what was asked of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        (folder / "wandb.py").write_text(FAKE)
        self._notes = folder / "notes.jsonl"
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("FAKE_NOTES", str(self._notes))
        monkeypatch.setenv(tracking.KEY, SECRET)

    def does(self, what: str, *, at: str) -> None:
        self._monkeypatch.setenv("FAKE_DOES", what)
        self._monkeypatch.setenv("FAKE_AT", at)

    def notes(self) -> list[Any]:
        return [json.loads(line) for line in self._notes.read_text().splitlines()] if self._notes.exists() else []

    def calls(self) -> list[str]:
        return [call for call, _ in self.notes()]

    def wait_for(self, call: str) -> None:
        deadline = time.monotonic() + 30
        while call not in self.calls():
            assert time.monotonic() < deadline, f"{call} has not been called, only {self.calls()}"
            time.sleep(0.02)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(tmp_path / "fake", monkeypatch)


def tracker(tmp_path: Path, mode: str = "online", waiting: int = 1000) -> tracking.Wandb:
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    wanted = Wandb.model_validate({"project": "perception", "mode": mode})
    return tracking.Wandb(wanted, folder, config={"seed": 1}, waiting=waiting)


def test_every_step_arrives_in_order_and_the_run_is_finished(tmp_path: Path, fake: Fake) -> None:
    wandb = tracker(tmp_path)
    for step in (1, 2, 3):
        wandb.log(step, {"actor/pg_loss": step / 2})
    wandb.close()

    notes = fake.notes()
    assert fake.calls() == ["import", "init", "log", "log", "log", "finish"]
    assert [given for call, given in notes if call == "log"] == [
        {"step": step, "metrics": {"actor/pg_loss": step / 2}} for step in (1, 2, 3)
    ]
    assert notes[1][1] == {
        "project": "perception",
        "mode": "online",
        "id": tracking.identity(tmp_path / "run"),
        "name": "run",
        "dir": str(tmp_path / "run"),
        "config": {"seed": 1},
        "resume": "allow",
        "settings": {"console": "off", "save_code": False, "disable_git": True, "silent": True},
    }


def test_a_resumed_run_goes_on_under_its_id(tmp_path: Path, fake: Fake) -> None:
    for step in (1, 2):
        wandb = tracker(tmp_path)
        wandb.log(step, {})
        wandb.close()

    first, second = [given["id"] for call, given in fake.notes() if call == "init"]
    assert first == second


def test_a_run_of_the_same_name_elsewhere_has_another_id(tmp_path: Path) -> None:
    assert tracking.identity(tmp_path / "a" / "run") != tracking.identity(tmp_path / "b" / "run")


@pytest.mark.parametrize("call", ["import", "init", "log", "finish"])
def test_a_hang_is_not_waited_for_and_leaves_no_process(
    tmp_path: Path, fake: Fake, capfd: pytest.CaptureFixture[str], call: str
) -> None:
    fake.does("hang", at=call)
    wandb = tracker(tmp_path)
    wandb.log(1, {"x": 1.0})
    if call != "finish":
        fake.wait_for(call)

    began = time.monotonic()
    for step in range(2, 100):
        wandb.log(step, {"x": float(step)})
    logged = time.monotonic()
    wandb.close(1.0)
    closed = time.monotonic()

    assert logged - began < 2
    assert closed - logged < 10
    assert capfd.readouterr().err == (
        "wandb: not done 1 s after the last step; what is left is not sent. Metrics go to metrics.jsonl and tb/ only.\n"
    )
    assert wandb._process is not None
    assert wandb._process.returncode == -9
    assert not wandb._thread.is_alive()


def test_while_it_hangs_only_so_many_steps_are_kept(
    tmp_path: Path, fake: Fake, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.does("hang", at="init")
    wandb = tracker(tmp_path, waiting=10)
    fake.wait_for("init")

    began = time.monotonic()
    for step in range(2000):  # more than the pipe takes
        wandb.log(step, {f"metric/{index}": 0.5 for index in range(50)})
    took = time.monotonic() - began
    wandb.close(0.5)

    assert took < 10
    assert capfd.readouterr().err == (
        "wandb: 10 steps wait to be sent and nothing moves; further ones are dropped. "
        "Metrics go to metrics.jsonl and tb/ only.\n"
    )


@pytest.mark.parametrize("call", ["import", "init", "log", "finish"])
def test_an_error_is_said_once_without_the_key(
    tmp_path: Path, fake: Fake, capfd: pytest.CaptureFixture[str], call: str
) -> None:
    fake.does("raise", at=call)
    wandb = tracker(tmp_path)
    for step in range(1, 20):
        wandb.log(step, {"x": 1.0})
        time.sleep(0.01)
    wandb.close()

    assert capfd.readouterr().err == (
        "wandb: RuntimeError: no route with key <WANDB_API_KEY>. Metrics go to metrics.jsonl and tb/ only.\n"
    )


def test_a_missing_package_is_said_with_the_way_out(
    tmp_path: Path, fake: Fake, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.does("be absent", at="import")
    wandb = tracker(tmp_path)
    wandb.log(1, {"x": 1.0})
    wandb.close()

    assert capfd.readouterr().err == (
        "wandb: ModuleNotFoundError: No module named 'wandb'. Install it with `pip install wandb`. "
        "Metrics go to metrics.jsonl and tb/ only.\n"
    )


def test_an_exit_of_the_library_ends_its_process_only(tmp_path: Path, fake: Fake) -> None:
    fake.does("exit", at="init")
    wandb = tracker(tmp_path)
    wandb.log(1, {"x": 1.0})
    wandb.close()

    assert fake.calls() == ["import", "init"]


def test_without_a_key_nothing_is_started(
    tmp_path: Path, fake: Fake, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(tracking.KEY)
    wandb = tracker(tmp_path)
    wandb.log(1, {"x": 1.0})
    wandb.close()

    assert fake.calls() == []
    assert capfd.readouterr().err == (
        "wandb: WANDB_API_KEY is not set. Export it before `submit`, or set wandb.mode to offline. "
        "Metrics go to metrics.jsonl and tb/ only.\n"
    )


def test_offline_needs_no_key(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tracking.KEY)
    wandb = tracker(tmp_path, mode="offline")
    wandb.log(1, {"x": 1.0})
    wandb.close()

    assert fake.calls() == ["import", "init", "log", "finish"]


def test_the_run_of_a_killed_trainer_is_finished(tmp_path: Path, fake: Fake) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from jobs.grpo import tracking
from jobs.grpo.settings import Wandb
wandb = tracking.Wandb(Wandb(project="p"), Path(sys.argv[1]), config={})
wandb.log(1, {"x": 1.0})
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": f"{os.environ['PYTHONPATH']}:{tracking.ROOT}"}
    trainer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, env=environment)
    try:
        fake.wait_for("log")
    finally:
        trainer.communicate(b"\n", timeout=30)

    fake.wait_for("finish")
    assert trainer.returncode == -9


def test_it_survives_the_signals_that_ask_a_trainer_to_stop(tmp_path: Path, fake: Fake) -> None:
    wandb = tracker(tmp_path)
    fake.wait_for("init")
    assert wandb._process is not None

    for number in tracking.IGNORED:
        wandb._process.send_signal(number)
    wandb.log(1, {"x": 1.0})
    wandb.close()

    assert fake.calls() == ["import", "init", "log", "finish"]


def test_one_daemon_thread_is_all_that_training_gets(tmp_path: Path, fake: Fake) -> None:
    before = set(threading.enumerate())
    wandb = tracker(tmp_path)
    added = set(threading.enumerate()) - before
    wandb.close()

    assert [thread.daemon for thread in added] == [True]
    assert "wandb" not in sys.modules
    assert fake.calls() == ["import", "init", "finish"]
