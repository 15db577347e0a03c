"""Asks the data plane whether every job, reward and source that a recipe names exists.

The control plane knows jobs by name only, so ``jobs.check`` runs in a process of its own. That is
a fork and not ``python -m jobs.check``, which does the same: a fresh interpreter takes 200 ms to
come to where this one already is, and half a command's time would go into it. Who asks has something
else to do meanwhile: the answer is taken when it is needed.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from orchestrator.errors import InputError

if TYPE_CHECKING:
    from orchestrator.section import Fault

TIMEOUT_S = 60.0
READ_BYTES = 1 << 16


def checkout() -> Path:
    """Return the folder that holds ``jobs/`` and ``eval/``: where this package lies, else around the working directory.

    The recipe's own surroundings are not looked at: reading somebody's recipe must not run somebody's code.

    Raises:
        InputError: There is none.
    """
    candidates = (Path(__file__).resolve().parent.parent, Path.cwd(), *Path.cwd().parents)
    for folder in candidates:
        if (folder / "jobs" / "check.py").is_file():
            return folder
    raise InputError(f"{Path.cwd()}: no checkout with jobs/ here. Change to the folder that 'git clone' made.")


class Inquiry:
    """A question to the jobs, on which another process works until the ``with`` ends.

    Args:
        data: A whole recipe, not necessarily a sound one; roles without a job are left out.
        folder: The checkout whose jobs are asked.
    """

    def __init__(self, data: Any, folder: Path) -> None:
        question = roles(data)
        self._until = time.monotonic() + TIMEOUT_S
        self._reading, writing = os.pipe()
        self._pid: int | None = _fork()
        if self._pid == 0:
            _check(question, folder, writing)
        os.close(writing)

    def __enter__(self) -> Inquiry:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._reading)
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
            self._ended(self._pid)

    def faults(self) -> tuple[list[Fault], list[Fault]]:
        """Wait for the answer: what can never work, and what does not work in this installation.

        Raises:
            RuntimeError: The check broke, and has printed why, or gave no answer in time. That is a bug of a job.
        """
        assert self._pid is not None, "an inquiry has one answer"
        try:
            answer = _read(self._reading, self._until)
        except TimeoutError:
            raise RuntimeError(f"jobs.check gave no answer within {TIMEOUT_S:g} s.") from None
        code = self._ended(self._pid)
        if code != 0:
            raise RuntimeError(f"jobs.check ended with {code}; what it printed says why.")
        found = json.loads(answer)
        return _faults(found["problems"]), _faults(found["missing"])

    def _ended(self, pid: int) -> int:
        _, status = os.waitpid(pid, 0)
        self._pid = None
        return os.waitstatus_to_exitcode(status)


def roles(data: Any) -> list[dict[str, Any]]:
    """Return what ``jobs.check`` is told of every role; of those that run elsewhere, that they are there."""
    from orchestrator.rules import links, services

    written = data.get("roles")
    if not isinstance(written, dict):
        return []
    running = services(written)
    elsewhere = [
        {"name": name, "url": role["url"]}
        for name, role in written.items()
        if isinstance(role, dict) and isinstance(role.get("url"), str) and role["url"]
    ]
    return elsewhere + [
        {
            "name": name,
            "job": role["job"],
            "kind": "service" if name in running else "batch",
            "needs": links(role, "needs"),
            "nodes": role.get("nodes", 1),
            "settings": role.get("with", {}),
        }
        for name, role in written.items()
        if isinstance(role, dict)
        and isinstance(role.get("job"), str)
        and role["job"]
        and isinstance(role.get("with", {}), dict)
        and role.get("url") is None
    ]


def _fork() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Python 3.12 warns if there are threads, since the child may find a lock taken for ever. The command
        # line has none; the child of a test that has some takes no lock but that of importing.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _check(question: list[dict[str, Any]], folder: Path, writing: int) -> NoReturn:
    """Be the child: answer into the pipe and end, whatever happens, without running the parent's clean-up."""
    code = 1
    try:
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        answer = importlib.import_module("jobs.check").answer(question)
        with os.fdopen(writing, "w", encoding="utf-8") as pipe:
            pipe.write(answer)
        code = 0
    finally:
        if code:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)


def _read(descriptor: int, until: float) -> str:
    """Return all that comes through the pipe until its other end is closed."""
    blocks: list[bytes] = []
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError
        block = os.read(descriptor, READ_BYTES)
        if not block:
            return b"".join(blocks).decode()
        blocks.append(block)


def _faults(records: list[dict[str, Any]]) -> list[Fault]:
    from orchestrator.section import Fault

    return [Fault(path=tuple(r["path"]), fact=r["fact"], way_out=r["way_out"]) for r in records]
