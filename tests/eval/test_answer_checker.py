"""The checking processes: killed when they hang, replaced, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from eval.answer_checker import CHECKOUT, AnswerChecker

# sympy computes this number, all of it.
HANGS = "\\boxed{9^{9^{9^{9}}}}"


@pytest.fixture(scope="module")
def checker() -> Iterator[AnswerChecker]:
    with AnswerChecker(timeout_s=1.5) as checker:
        yield checker


def workers() -> list[psutil.Process]:
    """Return the live ones of this process; a child that somebody else's test left unwaited for has no command line."""
    children = psutil.Process().children()
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "eval.answer_worker" in child.cmdline()]


def test_right_is_one_and_wrong_is_zero(checker: AnswerChecker) -> None:
    assert checker.check_now("<answer>\n\\boxed{2\\sqrt{3}}\n</answer>", "2 \\sqrt { 3 }") == 1.0
    assert checker.check_now("<answer>\n\\boxed{3}\n</answer>", "2 \\sqrt { 3 }") == 0.0


def test_a_hanging_comparison_is_missing_and_the_next_is_not(checker: AnswerChecker) -> None:
    assert checker.check_now("\\boxed{5}", "5") == 1.0
    before = checker.failures

    assert checker.check_now(HANGS, "5") is None

    assert checker.failures == before + 1
    assert checker.check_now("\\boxed{5}", "5") == 1.0


@pytest.mark.slow
def test_other_comparisons_go_on_while_one_hangs() -> None:
    async def both() -> tuple[float | None, list[float | None], float]:
        with AnswerChecker(processes=2, timeout_s=2.0) as checker:
            await asyncio.gather(checker.check("1", "1"), checker.check("2", "2"))
            started = time.monotonic()
            hanging = asyncio.create_task(checker.check(HANGS, "5"))
            others = [await checker.check("\\boxed{5}", "5") for _ in range(5)]
            others_s = time.monotonic() - started
            return await hanging, others, others_s

    hanging, others, others_s = asyncio.run(both())

    assert hanging is None
    assert others == [1.0] * 5
    assert others_s < 1.5


def test_a_worker_killed_from_outside_is_missing_once(checker: AnswerChecker) -> None:
    checker.check_now("1", "1")
    (worker,) = workers()
    worker.kill()
    worker.wait()

    assert checker.check_now("1", "1") is None
    assert checker.check_now("1", "1") == 1.0


def test_signals_to_the_group_do_not_end_a_worker(checker: AnswerChecker) -> None:
    checker.check_now("1", "1")
    (worker,) = workers()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        worker.send_signal(number)

    assert checker.check_now("1", "1") == 1.0
    assert [other.pid for other in workers()] == [worker.pid]


def test_close_leaves_no_process_behind() -> None:
    before = {worker.pid for worker in workers()}
    with AnswerChecker() as checker:
        checker.check_now("1", "1")
        assert {worker.pid for worker in workers()} > before

    assert {worker.pid for worker in workers()} == before


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed() -> None:
    program = (
        "import os, psutil, sys, time\n"
        "from eval.answer_checker import AnswerChecker\n"
        "checker = AnswerChecker()\n"
        "checker.check_now('1', '1')\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()

    worker.wait(timeout=10)


@pytest.mark.slow
def test_a_busy_worker_without_parent_is_ended_by_its_alarm() -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "eval.answer_worker"], cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    with worker.stdin, worker.stdout:
        worker.stdout.readline()
        request = '{"response": "\\\\boxed{9^{9^{9^{9}}}}", "answer": "5", "faithful": false, "limit_s": 0.3}\n'
        os.write(worker.stdin.fileno(), request.encode())

        assert worker.wait(timeout=20) == -signal.SIGALRM


def test_a_text_larger_than_a_pipe_is_compared(checker: AnswerChecker) -> None:
    response = "word " * 40_000 + "<answer>5</answer>"

    assert checker.check_now(response, "5") == 1.0


def test_text_that_is_no_unicode_is_compared(checker: AnswerChecker) -> None:
    assert checker.check_now("\ud800 \\boxed{5}", "5") == 1.0


@pytest.mark.slow
def test_a_process_compares_at_least_fifty_plain_answers_a_second(checker: AnswerChecker) -> None:
    checker.check_now("1", "1")
    started = time.monotonic()

    for number in range(100):
        checker.check_now(f"<think>\nr\n</think>\n<answer>\n\\boxed{{{number}}}\n</answer>", "7")

    # About 600 on one core of a laptop; the bound leaves room for a machine that does other things.
    assert 100 / (time.monotonic() - started) > 50
