"""Compares answers in processes that can be killed, so that no answer can stop a training run.

math-verify's own time limits need the main thread of a process and do not interrupt a long
multiplication. Here the limit is the parent's: a comparison that exceeds it loses its process,
another one is started, and the result is *missing*, which is neither right nor wrong.

    with AnswerChecker() as checker:
        checker.check_now(response, "24")          # 1.0, 0.0 or None
        await checker.check(response, "24")        # the same from any event loop
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

CHECKOUT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 120.0
# The kernel's alarm is the last resort, for a worker whose parent died.
ALARM_AFTER_LIMIT_S = 10.0


class _Failed(Exception):
    """The process died, or did not answer in time."""


class _Worker:
    """One checking process. Used by one thread at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""

    def ask(self, request: dict[str, object], limit_s: float) -> dict[str, object]:
        """Return the reply; after a failure the process is gone, and the next call starts another."""
        try:
            process = self._process or self._start()
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            return self._receive(process, limit_s)
        except (_Failed, BrokenPipeError):
            self.kill()
            raise _Failed from None

    def _start(self) -> subprocess.Popen[bytes]:
        self._received = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "eval.answer_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=CHECKOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self._receive(self._process, START_TIMEOUT_S)
        return self._process

    def _receive(self, process: subprocess.Popen[bytes], limit_s: float) -> dict[str, object]:
        assert process.stdout is not None
        # poll, not select: a trainer with many sockets has descriptors above select's 1024.
        readable = select.poll()
        readable.register(process.stdout, select.POLLIN)
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._received:
            ready = readable.poll(max(0.0, deadline - time.monotonic()) * 1000)
            chunk = os.read(process.stdout.fileno(), 65536) if ready else b""
            if not chunk:
                raise _Failed
            self._received += chunk
        line, self._received = self._received.split(b"\n", 1)
        reply: dict[str, object] = json.loads(line)
        return reply

    def kill(self) -> None:
        """End the process now, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            # What could not be sent to a dead process is of no interest.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class AnswerChecker:
    """A few checking processes, each started at its first comparison.

    Args:
        processes: How many comparisons run side by side.
        timeout_s: Time for one comparison, not counting the wait for a free process.
        faithful: Compare as the published code does, see ``eval.answers.correct``.

    Attributes:
        failures: Comparisons that had no result so far.
    """

    def __init__(self, *, processes: int = 1, timeout_s: float = 5.0, faithful: bool = False) -> None:
        self.failures = 0
        self._timeout_s = timeout_s
        self._faithful = faithful
        # Threads, not asyncio's subprocesses: they need no child watcher and serve any event loop.
        self._threads = ThreadPoolExecutor(max_workers=processes, thread_name_prefix="answer-checker")
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers = [_Worker() for _ in range(processes)]
        for worker in self._workers:
            self._idle.put(worker)

    async def check(self, response: str, answer: str) -> float | None:
        """Return 1.0 if the response's answer is right, 0.0 if not, None if that could not be found out."""
        return await asyncio.wrap_future(self._threads.submit(self._check, response, answer))

    def check_now(self, response: str, answer: str) -> float | None:
        """Return the same as ``check``, and wait for it."""
        return self._threads.submit(self._check, response, answer).result()

    def close(self) -> None:
        """Drop comparisons that have not begun, wait for those that have, and end the processes."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.kill()

    def __enter__(self) -> AnswerChecker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, response: str, answer: str) -> float | None:
        # As many workers as threads, so one is always free.
        worker = self._idle.get_nowait()
        try:
            reply = worker.ask(self._request(response, answer), self._timeout_s)
        except _Failed:
            reply = {}
        finally:
            self._idle.put(worker)
        if "correct" not in reply:
            self.failures += 1
            return None
        return float(bool(reply["correct"]))

    def _request(self, response: str, answer: str) -> dict[str, object]:
        limit_s = self._timeout_s + ALARM_AFTER_LIMIT_S
        return {"response": response, "answer": answer, "faithful": self._faithful, "limit_s": limit_s}
