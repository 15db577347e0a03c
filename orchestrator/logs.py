"""The roles' output, read from the attempts' folders: by shared files, without any server.

Following goes on across restarts of a role, which append to its file, and across attempts, which
have folders of their own, until the run has ended.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import NotFound, nearest
from orchestrator.run_directory import RunDirectory

POLL_S = 0.3
READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of output.

    Attributes:
        attempt: Of which attempt, from 1.
        source: The log's name: ``train``, ``judge-0``, ``gateway``.
        text: Without its end of line.
    """

    attempt: int
    source: str
    text: str


def attempts(run: RunDirectory) -> list[int]:
    """Return the numbers of the attempts that have a folder, oldest first."""
    if not run.attempts.is_dir():
        return []
    return sorted(int(folder.name) for folder in run.attempts.iterdir() if folder.name.isdigit())


def read(run: RunDirectory, role: str | None = None, attempt: int | None = None) -> Iterator[Line]:
    """Return the lines of one attempt, the newest if None, log by log.

    Raises:
        NotFound: There is no such attempt, or the role has no log in it; the message names those that have.
    """
    number = _chosen(run, attempt)
    known = _files(run, number, None)
    chosen = _files(run, number, role)
    if role is not None and not chosen:
        raise NotFound(f"--role: {role!r} has no log in attempt {number} of {run.name}. {nearest(role, known, 'logs')}")
    return (line for source, path in chosen.items() for line in _Tail(number, source, path).rest())


def follow(
    run: RunDirectory, ended: Callable[[], bool], role: str | None = None, attempt: int | None = None
) -> Iterator[Line]:
    """Return lines as they are written, the newest attempt's from its beginning, until the run has ended.

    Args:
        run: The run.
        ended: Whether it has ended; asked before each look, so that no last line is lost.
        role: Only this role's logs.
        attempt: Only this attempt.
    """
    tails: dict[Path, _Tail] = {}
    first = attempt or max(attempts(run), default=1)
    while True:
        last = ended()
        for number in attempts(run):
            if number == attempt or (attempt is None and number >= first):
                for source, path in _files(run, number, role).items():
                    yield from tails.setdefault(path, _Tail(number, source, path)).new()
        if last:
            for tail in tails.values():
                yield from tail.rest()
            return
        time.sleep(POLL_S)


class _Tail:
    """One log, read as it grows."""

    def __init__(self, attempt: int, source: str, path: Path) -> None:
        self._attempt, self._source, self._path = attempt, source, path
        self._offset = 0
        self._half = b""

    def new(self) -> Iterator[Line]:
        """Return whole lines written since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            while block := file.read(READ_BYTES):
                self._offset += len(block)
                *whole, self._half = (self._half + block).split(b"\n")
                yield from map(self._line, whole)

    def rest(self) -> Iterator[Line]:
        """Return everything that is left, a last line without an end included."""
        yield from self.new()
        if self._half:
            yield self._line(self._half)
            self._half = b""

    def _line(self, text: bytes) -> Line:
        shown = text.decode("utf-8", errors="replace").rstrip("\r")
        # A bar drawn with carriage returns is one line to us; its last state is what counts.
        return Line(attempt=self._attempt, source=self._source, text=shown.rpartition("\r")[2])


def _chosen(run: RunDirectory, attempt: int | None) -> int:
    known = attempts(run)
    if not known:
        raise NotFound(f"run: {run.name} has not started yet, so it has no logs.")
    if attempt is not None and attempt not in known:
        raise NotFound(f"--attempt: {run.name} has no attempt {attempt}. It has 1 to {known[-1]}.")
    return attempt or known[-1]


def _files(run: RunDirectory, attempt: int, role: str | None) -> dict[str, Path]:
    paths = {path.stem: path for path in sorted(run.attempt(attempt).glob("*.log"))}
    wanted = re.compile(rf"{re.escape(role)}(-[0-9]+)?" if role is not None else ".*")
    return {source: path for source, path in paths.items() if wanted.fullmatch(source)}
