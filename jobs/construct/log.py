"""The log of requests and responses: what was asked, what came back, what it cost. Nothing in it is asked again.

An append-only file of JSON lines, written by one process at a time. Of every request it has

    sent        before it leaves: not fsynced, as a process that is killed loses no write
    answer      the reply, fsynced before anybody uses it
    refused     the server will not answer this, however often it is asked
    failed      a request that had no answer, and the tokens that may have been paid for it
    checked     whether a solution's answer is right, so that a slow comparison has one result for good
    exported    written to a batch file, whose results are awaited; ``withdrawn`` takes it back

Memory holds where each line begins, not the line. A line cut short by a crash is left out: nobody acted on it.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from jobs.construct.request import Request, Stage
from orchestrator.errors import ConflictError
from orchestrator.files import PRIVATE_FILE, private_folder, sync_folder


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a request.

    Attributes:
        text: The reply; empty if there was none.
        finish: Why it ended: ``stop``, ``length``, or the server's own word.
        refused: Why the server will never answer; empty if it did.
    """

    text: str = ""
    finish: str = ""
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the server sent.

    Attributes:
        text: The message, with the reasoning in front where it comes apart.
        finish: Why it ended.
        tokens_in: Of the prompt.
        tokens_out: Of the reply, reasoning included.
        id: The server's own name for the request.
        served: The name under which it served the model.
        latency_s: Seconds from the request to the whole reply.
    """

    text: str
    finish: str
    tokens_in: int
    tokens_out: int
    id: str = ""
    served: str = ""
    latency_s: float = 0.0


class Log:
    """The file, open and locked until ``close``.

    Args:
        path: The file, made if needed.

    Raises:
        ConflictError: Another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        private_folder(path.parent)
        new = not path.exists()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
        self._lock()
        if new:
            sync_folder(path.parent)
        self._answers: dict[str, int] = {}
        self._verdicts: dict[str, tuple[str, bool | None]] = {}
        self._open: dict[str, tuple[Stage, int]] = {}
        self._exported: dict[str, str] = {}
        self._spent: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._unsynced: list[asyncio.Future[None]] = []
        self._syncing: asyncio.Task[None] | None = None
        self.sent = 0
        """Requests sent by all attempts."""
        self._read()
        for stage, tokens in self._open.values():
            self._lost[stage] += tokens
        self._open.clear()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def answer(self, key: str) -> Answer | None:
        """Return what became of a request, or None if that is not known."""
        begin = self._answers.get(key)
        if begin is None:
            return None
        record = self._at(begin)
        if record["event"] == "refused":
            return Answer(refused=record["why"])
        return Answer(text=record["text"], finish=record["finish"])

    def verdict(self, key: str, truth: str) -> tuple[bool | None] | None:
        """Return whether the solution's answer equals ``truth``, in a tuple; None if it was not compared with it.

        Inside the tuple, None stands for a comparison without a result.
        """
        said = self._verdicts.get(key)
        return (said[1],) if said is not None and said[0] == truth else None

    def spent(self, stage: str) -> int:
        """Return the tokens that a stage has cost."""
        return self._spent[stage]

    def lost(self, stage: str) -> int:
        """Return the tokens that requests without an answer may have cost."""
        return self._lost[stage]

    @property
    def answers(self) -> int:
        """How many requests have been answered or refused."""
        return len(self._answers)

    def exported(self) -> dict[str, str]:
        """Return the batch file of every request whose result is awaited from one."""
        return {key: file for key, file in self._exported.items() if key not in self._answers}

    def send(self, request: Request, tokens: int) -> None:
        """Note that a request leaves now, and what it may cost at most."""
        self._write_now({"event": "sent", **_name(request), "tokens": tokens})

    async def keep(self, request: Request, reply: Reply) -> None:
        """Keep a reply; returns when it is on disk."""
        await self._append(_answer_record(request, reply))

    def keep_now(self, request: Request, reply: Reply) -> None:
        """Keep a reply without an event loop; it is on disk after ``sync``."""
        self._write_now(_answer_record(request, reply))

    async def refuse(self, request: Request, why: str) -> None:
        """Keep that a request will never be answered."""
        await self._append({"event": "refused", **_name(request), "why": why, "request": request.record()})

    def refuse_now(self, request: Request, why: str) -> None:
        """Keep the same without an event loop; it is on disk after ``sync``."""
        self._write_now({"event": "refused", **_name(request), "why": why, "request": request.record()})

    def fail(self, request: Request, why: str, tokens: int) -> None:
        """Note that a request had no answer, and what it may have cost all the same."""
        self._write_now({"event": "failed", **_name(request), "why": why, "tokens": tokens})

    async def check(self, key: str, truth: str, correct: bool | None) -> None:
        """Keep whether a solution's answer is right."""
        await self._append({"event": "checked", "key": key, "truth": truth, "correct": correct})

    def export(self, request: Request, file: str) -> None:
        """Note that a request stands in a batch file."""
        self._write_now({"event": "exported", **_name(request), "file": file})

    def withdraw(self, key: str) -> None:
        """Note that no result of a batch file is awaited for a request."""
        self._write_now({"event": "withdrawn", "key": key})

    def sync(self) -> None:
        """Return when everything is on disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file, which unlocks it."""
        os.close(self._descriptor)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise ConflictError(
                f"{self.path}: Another process has this log open, and two would pay for the same requests. "
                "Wait for it to end, or stop it."
            ) from None

    async def _append(self, record: dict[str, Any]) -> None:
        """Write a record and wait until it is on disk; one fsync serves all that were written meanwhile."""
        self._write_now(record)
        done = asyncio.get_running_loop().create_future()
        self._unsynced.append(done)
        if self._syncing is None:
            self._syncing = asyncio.get_running_loop().create_task(self._sync_all())
        await done

    async def _sync_all(self) -> None:
        while self._unsynced:
            waiting, self._unsynced = self._unsynced, []
            try:
                await asyncio.to_thread(self.sync)
            except OSError as error:
                _resolve(waiting, error)
            else:
                _resolve(waiting, None)
        self._syncing = None

    def _write_now(self, record: dict[str, Any]) -> None:
        # In ASCII: a reply may hold half a surrogate pair, which no encoding can write.
        line = json.dumps({**record, "at": round(time.time(), 3)}).encode() + b"\n"
        begin = os.lseek(self._descriptor, 0, os.SEEK_END)
        if os.write(self._descriptor, line) < len(line):
            # The disk became full inside the line, which is no error to the system.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._take(record, begin)

    def _read(self) -> None:
        whole = 0
        for begin, line in _lines(self.path):
            whole = begin + len(line)
            try:
                self._take(json.loads(line), begin)
            except (ValueError, KeyError, TypeError):
                continue  # Cut short by a crash.
        if whole < os.fstat(self._descriptor).st_size:
            os.write(self._descriptor, b"\n")

    def _take(self, record: dict[str, Any], begin: int) -> None:
        """Bring what memory knows up to date with one line."""
        event, key = record["event"], record["key"]
        if event == "sent":
            # Left open by a process that was killed; the server may have answered it, and may ask to be paid.
            self._lost[record["stage"]] += self._open.get(key, ("", 0))[1]
            self._open[key] = (record["stage"], record["tokens"])
            self.sent += 1
        elif event in ("answer", "refused"):
            self._open.pop(key, None)
            if key not in self._answers:
                self._answers[key] = begin
                self._spent[record["stage"]] += record.get("tokens_in", 0) + record.get("tokens_out", 0)
        elif event == "failed":
            self._open.pop(key, None)
            self._lost[record["stage"]] += record["tokens"]
        elif event == "checked":
            self._verdicts[key] = (record["truth"], record["correct"])
        elif event == "exported":
            self._exported[key] = record["file"]
        elif event == "withdrawn":
            self._exported.pop(key, None)

    def _at(self, begin: int) -> dict[str, Any]:
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(begin)
            record: dict[str, Any] = json.loads(file.readline())
        return record


def _resolve(waiting: list[asyncio.Future[None]], error: OSError | None) -> None:
    for done in waiting:
        # Whoever waited may have been cancelled; what it wrote is kept all the same.
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)


def _name(request: Request) -> dict[str, Any]:
    return {
        "key": request.key,
        "stage": request.stage,
        "row": request.row,
        "candidate": request.candidate,
        "sample": request.sample,
    }


def _answer_record(request: Request, reply: Reply) -> dict[str, Any]:
    return {"event": "answer", **_name(request), **asdict(reply), "request": request.record()}


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield every line that ends, with the offset at which it begins."""
    begin = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield begin, line
            begin += len(line)
