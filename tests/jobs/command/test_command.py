from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

TIMEOUT_S = 20


def start(folder: Path, settings: dict[str, Any]) -> subprocess.Popen[str]:
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(settings))
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.command", "--settings", str(file), "--out", str(folder / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_program_gets_its_arguments_as_they_are(tmp_path: Path) -> None:
    job = start(tmp_path, {"argv": ["echo", "$HOME", "a  b", "; ls"]})

    out, _ = job.communicate(timeout=TIMEOUT_S)

    assert (job.returncode, out) == (0, "$HOME a  b ; ls\n")


def test_the_program_gets_its_environment(tmp_path: Path) -> None:
    job = start(tmp_path, {"argv": ["sh", "-c", "echo $COLOUR"], "environment": {"COLOUR": "blue"}})

    out, _ = job.communicate(timeout=TIMEOUT_S)

    assert out == "blue\n"


def test_outputs_are_published_when_the_program_has_succeeded(tmp_path: Path) -> None:
    start(tmp_path, {"argv": ["true"], "outputs": {"model": "out/model"}}).communicate(timeout=TIMEOUT_S)

    assert json.loads((tmp_path / "out/outputs/command.json").read_text()) == {"model": "out/model"}


def test_a_failure_is_passed_on_and_publishes_nothing(tmp_path: Path) -> None:
    job = start(tmp_path, {"argv": ["sh", "-c", "exit 7"], "outputs": {"model": "x"}})

    job.communicate(timeout=TIMEOUT_S)

    assert job.returncode == 7
    assert not (tmp_path / "out/outputs/command.json").exists()


def test_a_program_killed_by_a_signal_has_failed(tmp_path: Path) -> None:
    job = start(tmp_path, {"argv": ["sh", "-c", "kill -9 $$"]})

    job.communicate(timeout=TIMEOUT_S)

    assert job.returncode == 128 + signal.SIGKILL


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    job = start(tmp_path, {"argv": ["no-such-program"]})

    _, talk = job.communicate(timeout=TIMEOUT_S)

    assert job.returncode == 2
    assert talk.endswith("error: argv: 'no-such-program' cannot be started: No such file or directory.\n")


def wait_for(path: Path) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not path.exists():
        assert time.monotonic() < until, f"waited {TIMEOUT_S} s for {path}"
        time.sleep(0.02)


def test_a_program_that_stops_when_asked_has_drained(tmp_path: Path) -> None:
    job = start(tmp_path, {"argv": ["sh", "-c", f"touch {tmp_path}/up; exec sleep 60"]})
    wait_for(tmp_path / "up")

    os.kill(job.pid, signal.SIGTERM)
    job.communicate(timeout=TIMEOUT_S)

    assert job.returncode == 75


def test_a_program_may_choose_how_it_ends_when_asked(tmp_path: Path) -> None:
    script = f"trap 'exit 3' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done"
    job = start(tmp_path, {"argv": ["sh", "-c", script]})
    wait_for(tmp_path / "up")

    os.kill(job.pid, signal.SIGTERM)
    job.communicate(timeout=TIMEOUT_S)

    assert job.returncode == 3
