"""What a user can cause, each error with the exit code that scripts may rely on.

An error says three things: the place, the fact with its value, the way out. Everything that is
not an ``OrchestratorError`` is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with what a user wrote.

    Attributes:
        place: Where: ``"recipes/geo3k.yaml:12: roles.judge.nodes"``, or an argument's name.
        fact: What is wrong, with the offending value, as a full sentence.
        way_out: What to do about it, as a full sentence. Empty if the fact says it.
    """

    place: str
    fact: str
    way_out: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.fact} {self.way_out}".rstrip()


class OrchestratorError(Exception):
    """Base of everything a user can cause. The command line prints it and exits with its code."""

    exit_code = 1


class RunFailed(OrchestratorError):
    """The run ended without finishing its plan."""

    exit_code = 1


class InputError(OrchestratorError):
    """What the user wrote cannot be used. Nothing was started."""

    exit_code = 2


class ConflictError(OrchestratorError):
    """The run exists or is running, or its directory belongs to another recipe."""

    exit_code = 3


class NotFound(OrchestratorError):
    """No such run, role, file or step."""

    exit_code = 4


class Cancelled(OrchestratorError):
    """A user cancelled the run."""

    exit_code = 5


class CrashLoop(OrchestratorError):
    """The run was restarted too often without a newly committed step."""

    exit_code = 6


class SchedulerUnavailable(OrchestratorError):
    """The scheduler did not answer, or refused. The same command may work later."""

    exit_code = 75


def all_at_once(subject: str, problems: Sequence[Problem]) -> InputError:
    """Return one error that lists every problem of ``subject``, one per line."""
    count = f"{len(problems)} problem" + ("" if len(problems) == 1 else "s")
    return InputError("\n".join([f"{subject}: {count}.", *(f"  {problem}" for problem in problems)]))


def nearest(word: str, known: Iterable[str], noun: str = "keys") -> str:
    """Return a sentence that leads from a wrong name to a known one.

    >>> nearest("tensor_paralel", ["model", "tensor_parallel"])
    "Did you mean 'tensor_parallel'?"
    >>> nearest("x", ["b", "a"])
    'Known keys: a, b.'
    """
    import difflib  # only an error needs it

    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known {noun}: {', '.join(names)}." if names else ""
