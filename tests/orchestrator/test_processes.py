from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from orchestrator import processes


def sleeper(**variables: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=dict(os.environ) | variables)


def test_a_process_is_described_as_psutil_does() -> None:
    me = processes.find(os.getpid())
    assert me is not None
    assert me.parent == os.getppid()
    assert me.session == os.getsid(0)
    assert me.start == pytest.approx(psutil.Process().create_time(), abs=0.05)
    assert not me.ended


def test_a_pid_that_was_used_again_is_another_process() -> None:
    me = processes.find(os.getpid())
    assert me is not None
    assert processes.alive(me.pid, me.start)
    assert not processes.alive(me.pid, me.start - 100)


def test_a_zombie_is_not_alive() -> None:
    child = sleeper()
    process = processes.find(child.pid)
    assert process is not None
    child.kill()
    assert processes.wait_gone([process], 5) == []
    assert not processes.alive(process.pid, process.start)
    child.wait()
    assert processes.find(child.pid) is None


def test_descendants_are_children_of_children() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(input())'])"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        found: list[int] = []
        while len(found) < 2:
            found = [process.pid for process in processes.descendants(os.getpid()) if process.pid != child.pid]
            found = [child.pid, *[pid for pid in found if psutil.Process(pid).ppid() == child.pid]]
        assert found[0] == child.pid
    finally:
        child.communicate(b"done\n", timeout=10)


def test_processes_are_found_by_their_environment() -> None:
    child = sleeper(ORCH_TEST_MARK="a b=c")
    try:
        found = [process.pid for process in processes.marked({"ORCH_TEST_MARK": "a b=c"})]
        assert found == [child.pid]
        assert processes.marked({"ORCH_TEST_MARK": "a b"}) == []
    finally:
        child.kill()
        child.wait()


def test_kill_spares_a_process_that_took_over_the_pid() -> None:
    child = sleeper()
    try:
        known = processes.find(child.pid)
        assert known is not None
        impostor = processes.Process(
            pid=known.pid, parent=known.parent, session=known.session, start=known.start - 50, ended=False
        )
        processes.kill([impostor])
        assert processes.alive(known.pid, known.start)
    finally:
        child.kill()
        child.wait()
