from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import inspection


def checkout_with(folder: Path, check: str) -> Path:
    """Return a checkout of whose jobs nothing exists but a module named ``brought`` in the place of ``jobs.check``."""
    (folder / "jobs").mkdir()
    (folder / "jobs" / "__init__.py").touch()
    (folder / "jobs" / "check.py").write_text(check)
    return folder


RECIPE = {"roles": {"a": {"job": "x", "with": {"m": 1}}, "b": {"job": "y", "needs": "a"}, "c": {"job": 3}, "d": 4}}


def test_every_role_with_a_job_is_asked_about() -> None:
    assert inspection.roles(RECIPE) == [
        {"name": "a", "job": "x", "kind": "service", "needs": [], "nodes": 1, "settings": {"m": 1}},
        {"name": "b", "job": "y", "kind": "batch", "needs": ["a"], "nodes": 1, "settings": {}},
    ]


def test_of_a_role_that_runs_elsewhere_only_its_name_is_told() -> None:
    assert inspection.roles({"roles": {"judge": {"url": "https://elsewhere/v1", "with": {"model": "big"}}}}) == [
        {"name": "judge", "url": "https://elsewhere/v1"}
    ]


def test_the_answer_comes_from_the_jobs_of_the_checkout() -> None:
    with inspection.Inquiry({"roles": {"a": {"job": "comand"}}}, inspection.checkout()) as inquiry:
        problems, missing = inquiry.faults()

    assert [(fault.path, fault.fact) for fault in problems] == [(("roles", "a", "job"), "There is no job 'comand'.")]
    assert missing == []


def test_the_jobs_run_in_another_process(capfd: pytest.CaptureFixture[str]) -> None:
    program = {"roles": {"a": {"job": "command", "with": {"argv": ["no-such-program"]}}}}
    before = os.getcwd()

    with inspection.Inquiry(program, inspection.checkout()) as inquiry:
        _, missing = inquiry.faults()

    assert len(missing) == 1
    assert os.getcwd() == before
    assert capfd.readouterr().err == ""


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run a program that asks the jobs of ``folder``, as in this process those of the checkout are known already."""
    program = f"""
from pathlib import Path
import psutil
from orchestrator import inspection
folder = Path({str(folder)!r})
{code}"""
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=20, check=False
    )


ASK = """
with inspection.Inquiry({}, folder) as inquiry:
    inquiry.faults()
"""
HANGS = "import time\ndef answer(roles):\n    time.sleep(60)\n"


def test_a_check_that_breaks_says_why_and_is_no_answer(tmp_path: Path) -> None:
    folder = checkout_with(tmp_path, "def answer(roles):\n    raise ZeroDivisionError('in a job')\n")

    talk = run(folder, ASK).stderr

    assert "ZeroDivisionError: in a job" in talk
    assert talk.endswith("RuntimeError: jobs.check ended with 1; what it printed says why.\n")


def test_a_check_that_hangs_is_ended(tmp_path: Path) -> None:
    talk = run(checkout_with(tmp_path, HANGS), f"inspection.TIMEOUT_S = 0.2{ASK}").stderr

    assert talk.endswith("RuntimeError: jobs.check gave no answer within 0.2 s.\n")


def test_a_question_that_is_dropped_leaves_no_process_behind(tmp_path: Path) -> None:
    code = """
try:
    with inspection.Inquiry({}, folder):
        (child,) = psutil.Process().children()
        raise KeyError
except KeyError:
    print(child.is_running())
"""

    ended = run(checkout_with(tmp_path, HANGS), code)

    assert (ended.stdout, ended.stderr) == ("False\n", "")
