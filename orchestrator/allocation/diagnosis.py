"""Why a run failed: the earliest error over all roles, with its place.

Later errors are mostly consequences: a dead judge ends in a hundred failed rewards and then in a
trainer's traceback. Logs carry no common clock, so the supervisor looks into all of them once a
second and remembers when it first saw an error in each; what a role recovered from is forgiven.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

ERROR_LINE = re.compile(
    r"^(?:Traceback \(most recent call last\):|error: .|(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception)\b)"
)
PREFIX = re.compile(r"^(?:\([^()]{1,80}\) )?(?:ERROR [^\]]{1,80}\] )?")
"""What Ray and vLLM put before the lines of their child processes."""
TRACEBACK = "Traceback (most recent call last):"
READ_AT_ONCE = 1 << 20
CONTEXT_LINES = 12


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An error in a log, or a process that a signal ended.

    Attributes:
        role: The role, or its log's name.
        place: ``attempts/1/train.log:120``, or empty for an end that left no line.
        text: The error's last line, which names it.
        context: What was printed with it; may be empty.
    """

    role: str
    place: str
    text: str
    context: str = ""

    def __str__(self) -> str:
        head = f"{self.role}: {self.text}" + (f" ({self.place})" if self.place else "")
        return f"{self.context}\n{head}" if self.context else head


def end_of_process(exit_code: int) -> str:
    """Return in words how a process ended.

    >>> end_of_process(-9), end_of_process(1)
    ('killed by SIGKILL', 'exit code 1')
    """
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"


def first_error(lines: list[str], role: str, name: str, first_line: int = 1) -> Finding | None:
    """Return the first error among the lines of a log; None if there is none.

    A traceback is named by its last line, the first one that is neither indented nor empty.

    Args:
        lines: Lines of the log, without their ends.
        role: Whose log it is.
        name: The log's path as it is to be shown.
        first_line: The number of the first of ``lines`` in the log.
    """
    bare = [PREFIX.sub("", line) for line in lines]
    start = next((index for index, line in enumerate(bare) if ERROR_LINE.match(line)), None)
    if start is None:
        return None
    end = _end_of_traceback(bare, start) if bare[start].startswith(TRACEBACK) else start
    return Finding(
        role=role,
        place=f"{name}:{first_line + start}",
        text=(bare[start] if end is None else bare[end]).strip(),
        context="" if end in (None, start) else "\n".join(bare[start : end + 1][-CONTEXT_LINES:]),
    )


class Watch:
    """Reads the logs of one attempt as they grow and keeps the errors in order of appearance."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, tuple[int, int]] = {}
        self._findings: list[Finding] = []

    def look(self, role: str, log: str) -> None:
        """Read what a role has printed since the last look, and remember its first error there."""
        offset, line = self._read.get(log, (0, 1))
        try:
            with open(self.folder / log, "rb") as file:
                file.seek(offset)
                new = file.read(READ_AT_ONCE)
        except FileNotFoundError:
            return
        # A line or traceback still being written is looked at again when it is whole.
        whole = new[: new.rfind(b"\n") + 1]
        lines = whole.decode("utf-8", errors="replace").split("\n")[:-1]
        found = first_error(lines, role, self._shown(log), line)
        if found is not None and found.text == TRACEBACK and len(new) < READ_AT_ONCE:
            return
        self._read[log] = (offset + len(whole), line + len(lines))
        if found is not None:
            self._findings.append(found)

    def ended(self, role: str, log: str, exit_code: int) -> None:
        """Remember that a role's process failed, if its log does not say more."""
        self._flush(role, log)
        if exit_code < 0 or not any(finding.role == role for finding in self._findings):
            self._findings.append(Finding(role=role, place="", text=f"{end_of_process(exit_code)}."))

    def note(self, role: str, text: str) -> None:
        """Remember an error that no log holds."""
        self._findings.append(Finding(role=role, place="", text=text))

    def forgive(self, role: str) -> None:
        """Forget a role's errors: it works again."""
        self._findings = [finding for finding in self._findings if finding.role != role]

    def earliest(self) -> Finding | None:
        """Return the earliest error that was not recovered from; None if there is none."""
        return self._findings[0] if self._findings else None

    def latest(self, role: str) -> str:
        """Return the newest error's line of a role, or nothing."""
        return next((finding.text for finding in reversed(self._findings) if finding.role == role), "")

    def _flush(self, role: str, log: str) -> None:
        """Look at everything that is left: the role has ended, so half a line is all there will be."""
        offset, line = self._read.get(log, (0, 1))
        path = self.folder / log
        rest = path.read_bytes()[offset:] if path.exists() else b""
        found = first_error(rest.decode("utf-8", errors="replace").splitlines(), role, self._shown(log), line)
        self._read[log] = (offset + len(rest), line + rest.count(b"\n"))
        if found is not None:
            self._findings.append(found)

    def _shown(self, log: str) -> str:
        return f"attempts/{self.folder.name}/{log}"


def _end_of_traceback(lines: list[str], start: int) -> int | None:
    """Return the index of the line that names the error; None if it is not there yet."""
    for index in range(start + 1, len(lines)):
        if lines[index] and not lines[index][0].isspace():
            return index
    return None
