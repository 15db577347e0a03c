"""Progress of a command on the standard error: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.progress import line

EVERY_S = 5.0
Advance = Callable[[int], None]


@contextmanager
def bar(what: str, total: int, unit: str) -> Iterator[Advance]:
    """Show how much of ``total`` is done; call what is yielded with the number of units just finished."""
    if sys.stderr.isatty():
        yield from _drawn(what, total, unit)
    else:
        yield from _written(what, total, unit)


def _drawn(what: str, total: int, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda number: progress.advance(task, number)


def _written(what: str, total: int, unit: str) -> Iterator[Advance]:
    done, printed = 0, time.monotonic()

    def advance(number: int) -> None:
        nonlocal done, printed
        done += number
        if time.monotonic() - printed >= EVERY_S:
            printed = time.monotonic()
            print(line(what, done, total, unit, ""), file=sys.stderr, flush=True)

    yield advance
