from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from orchestrator import processes
from orchestrator.allocation import launch
from tests.orchestrator.allocation.runs import wait_for

DEAF = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
DAEMON = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {DEAF!r}], start_new_session=True, stdout=subprocess.PIPE, env={{}})
child.stdout.readline()
print(child.pid, flush=True)
"""


def start(log: Path, code: str, drain_s: float = 5.0) -> launch.Started:
    return launch.start([sys.executable, "-c", code], os.environ, log, drain_s=drain_s)


def says(log: Path, what: str) -> str:
    wait_for(lambda: what in log.read_text(), f"{what!r} in the log")
    return log.read_text()


def test_it_exits_with_its_roles_code(tmp_path: Path) -> None:
    assert start(tmp_path / "log", "raise SystemExit(7)").guard.wait(10) == 7


def test_it_dies_by_its_roles_signal(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    assert start(tmp_path / "log", code).guard.wait(10) == -signal.SIGSEGV


def test_it_reports_the_roles_own_process(tmp_path: Path) -> None:
    started = start(tmp_path / "log", "import os, sys; print(os.getpid(), sys.stdin.read() == '', flush=True)")
    assert started.guard.wait(10) == 0
    assert (tmp_path / "log").read_text() == f"{started.pid} True\n"


def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    started = launch.start(["/no/such/program"], os.environ, tmp_path / "log", drain_s=1)
    assert started.guard.wait(10) == 127
    assert (tmp_path / "log").read_text() == "error: /no/such/program cannot be run: No such file or directory.\n"


def test_a_daemon_that_left_session_and_environment_dies_with_its_role(tmp_path: Path) -> None:
    started = start(tmp_path / "log", DAEMON)
    assert started.guard.wait(15) == 0
    daemon = int((tmp_path / "log").read_text())
    assert processes.find(daemon) is None


def test_a_role_that_is_deaf_is_killed_when_the_drain_is_over(tmp_path: Path) -> None:
    started = start(tmp_path / "log", DEAF, drain_s=0.5)
    says(tmp_path / "log", "up")
    asked = time.monotonic()
    started.guard.terminate()
    assert started.guard.wait(10) == -signal.SIGKILL
    assert 0.4 < time.monotonic() - asked < 5.0


def test_a_request_to_stop_reaches_the_role_once_and_as_the_same_signal(tmp_path: Path) -> None:
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGUSR2, lambda *_: print('heard', flush=True))\n"
        "print('up', flush=True); time.sleep(1)"
    )
    started = start(tmp_path / "log", code)
    says(tmp_path / "log", "up")
    started.guard.send_signal(signal.SIGUSR2)
    assert started.guard.wait(10) == 0
    assert (tmp_path / "log").read_text() == "up\nheard\n"


def test_it_ends_its_role_when_its_own_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys, time\n"
        "from orchestrator.allocation import launch\n"
        f"s = launch.start([sys.executable, '-c', {DEAF!r}], os.environ, pathlib.Path(sys.argv[1]), drain_s=0.5)\n"
        "print(s.pid, s.guard.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    role, guard = map(int, parent.stdout.readline().split())
    says(tmp_path / "log", "up")

    parent.kill()
    parent.wait()
    parent.stdout.close()

    wait_for(lambda: _gone(role) and _gone(guard), "the end of role and guard", timeout_s=8.0)


def _gone(pid: int) -> bool:
    process = processes.find(pid)
    return process is None or process.ended
