"""Watching a run to its end: bars on a terminal, a line now and then elsewhere.

The run does not depend on being watched. Ctrl-C asks it to drain and goes on watching until it
has; a second Ctrl-C leaves it to drain alone.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Protocol, TextIO

from orchestrator import control, ledger, plan, status, waiting
from orchestrator.run_directory import RunDirectory
from orchestrator.status import RoleStatus, Status
from orchestrator.waiting import Answer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

LOOK_EVERY_S = 0.5
PRINT_EVERY_S = 5.0
ASK_EVERY_S = 60.0
"""Slurm is asked so often about a run that waits in its queue, and never about one that runs."""
FIRST_ASK_S = 3.0
BELIEVE_AFTER_S = 5.0
"""A job that Slurm says is gone may have written its last words just now."""
DRAIN_MARGIN_S = 30.0
INTERRUPTED = 130
BAR_WIDTH = 24


class Screen(Protocol):
    """Where a run is shown."""

    def show(self, now: Status) -> None:
        """Show the state; called twice a second."""

    def tell(self, text: str) -> None:
        """Add a line that stays."""


def watch(run: RunDirectory, out: TextIO | None = None) -> int:
    """Show the run until it has ended, and return the exit code that its state stands for.

    Args:
        run: A run that has been submitted.
        out: Where to show it; the standard error if None.

    Returns:
        The code of ``control.EXIT_CODES``; 130 if a second Ctrl-C ended the watching.
    """
    out = out or sys.stderr
    with _screen(out) as screen, _interrupts() as interrupts:
        ended = _watch(run, screen, interrupts)
    if ended is None:
        print(f"{run.name} drains on its own. See: python -m orchestrator status {run.name}", file=out)
        return INTERRUPTED
    print(ending(ended), file=out)
    return control.EXIT_CODES[ended.state]


def ending(now: Status) -> str:
    """Return how a run ended, in a paragraph: state, cause, earliest error, report and what to do next."""
    parts = [f"{now.name} {now.state} after {status.clock(now.elapsed_s)}." + (f" {now.cause}" if now.cause else "")]
    if now.diagnosis:
        parts.append(f"The earliest error:\n{now.diagnosis}")
    if now.report:
        parts.append(f"Report: {now.report}")
    if now.state != "SUCCEEDED":
        parts.append(
            f"Logs: {now.path}/attempts/{now.attempt}\nContinue with: python -m orchestrator resume {now.name}"
        )
    return "\n".join(parts)


class _Inquiry:
    """The run's status, completed by what Slurm said when it was last asked."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._answer: Answer | None = None
        self._asked_at = float("-inf")
        self._waits_since = time.monotonic()

    def read(self) -> Status:
        """Return the status; asks Slurm if the run waits for it and it was not asked lately."""
        now = time.monotonic()
        known = status.read(self._run)
        if known.state not in status.WAITING:
            self._answer, self._waits_since = None, now
            return known
        due = now - self._asked_at >= ASK_EVERY_S and now - self._waits_since >= FIRST_ASK_S
        if due or (known.state == "LOST" and self._answer is None):
            self._answer, self._asked_at = waiting.ask(self._run), now
        gone = self._answer is not None and self._answer.state == "LOST"
        if gone and time.monotonic() - self._asked_at < BELIEVE_AFTER_S:
            return known
        return status.read(self._run, self._answer)


class _Interrupts:
    """Counts Ctrl-C; the loop acts."""

    def __init__(self) -> None:
        self.count = 0

    def record(self, _signal: int, _frame: FrameType | None) -> None:
        self.count += 1


@contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    counter = _Interrupts()
    before = signal.signal(signal.SIGINT, counter.record)
    try:
        yield counter
    finally:
        signal.signal(signal.SIGINT, before)


def _watch(run: RunDirectory, screen: Screen, interrupts: _Interrupts) -> Status | None:
    """Show the run until it ends; None if a second Ctrl-C, or a drain that takes too long, ended that."""
    told = len(ledger.read(run.ledger)) if control.state(run).attempt else 0
    deadline: float | None = None
    inquiry = _Inquiry(run)
    while True:
        now = inquiry.read()
        told = _tell_new(run, screen, told)
        screen.show(now)
        if now.state in control.EXIT_CODES:
            return now
        if interrupts.count and deadline is None:
            deadline = time.monotonic() + _ask_to_drain(run, screen)
        if interrupts.count > 1 or (deadline is not None and time.monotonic() > deadline):
            return None
        time.sleep(LOOK_EVERY_S)


def _ask_to_drain(run: RunDirectory, screen: Screen) -> float:
    """Ask, and return how long the run may take, seconds: its roles drain one after another at worst."""
    limit_s = sum(role.drain_s for role in plan.load(run.plan).roles) + DRAIN_MARGIN_S
    screen.tell(f"Asked {run.name} to save and end, at most {status.clock(limit_s)}. Ctrl-C again leaves it to itself.")
    if not control.state(run).ended:
        control.cancel(run, "Ctrl-C")
    return limit_s


def _tell_new(run: RunDirectory, screen: Screen, told: int) -> int:
    events = ledger.read(run.ledger)
    for event in events[told:]:
        text = status.story(event)
        if text:
            screen.tell(text)
    return len(events)


def _screen(out: TextIO) -> AbstractContextManager[Screen]:
    from rich.console import Console

    console = Console(file=out, highlight=False)
    return _live(console) if console.is_terminal and not console.is_dumb_terminal else _lines(out)


@contextmanager
def _lines(out: TextIO) -> Iterator[Screen]:
    yield Lines(out)


class Lines:
    """For files and pipes: what happens at once, and every few seconds the roles whose numbers have changed."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._printed: dict[str, float] = {}
        self._before: dict[str, RoleStatus] = {}
        self._elapsed_s = 0.0
        self._doing = ""

    def show(self, now: Status) -> None:
        self._elapsed_s = now.elapsed_s
        if now.doing != self._doing:
            self._doing = now.doing
            if now.doing:
                self.tell(now.doing)
        for role in now.roles:
            before = self._before.get(role.role)
            turned = before is None or (before.state, before.phase) != (role.state, role.phase)
            due = time.monotonic() - self._printed.get(role.role, 0.0) >= PRINT_EVERY_S
            if turned or (due and before is not None and status.line(before) != status.line(role)):
                self._before[role.role] = role
                self._printed[role.role] = time.monotonic()
                self.tell(status.line(role))

    def tell(self, text: str) -> None:
        print(f"[{status.clock(self._elapsed_s)}] {text}", file=self._out, flush=True)


@contextmanager
def _live(console: Console) -> Iterator[Screen]:
    from rich.live import Live

    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield _Bars(live)


class _Bars:
    """For terminals: one bar a role, redrawn in place, events scrolling above."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, now: Status) -> None:
        self._live.update(bars(now), refresh=True)

    def tell(self, text: str) -> None:
        self._live.console.print(text, markup=False)


def bars(now: Status) -> RenderableType:
    """Return the run as a table: one line a role, with a bar where the end is known."""
    from rich.table import Table
    from rich.text import Text

    parts = [f"{now.name} {now.state}", f"attempt {now.attempt}", status.clock(now.elapsed_s), now.doing]
    table = Table.grid(padding=(0, 1), pad_edge=False)
    for ratio in (None, None, None, 1):
        table.add_column(ratio=ratio, no_wrap=True, overflow="ellipsis")
    table.title, table.title_justify, table.expand = ", ".join(filter(None, parts)), "left", True
    for role in now.roles:
        phase, bar, rest = _cells(role)
        # Text, not markup: what a role says may hold brackets.
        table.add_row(Text(role.role, style=_STYLES.get(role.state, "")), Text(phase), Text(bar), Text(rest))
    return table


_STYLES = {"done": "green", "failed": "red", "restarting": "yellow", "waiting": "dim", "stopped": "dim"}


def _cells(role: RoleStatus) -> tuple[str, str, str]:
    if role.state not in status.ACTIVE or not role.phase:
        return role.state, "", role.message if role.message != role.state else ""
    share = min(1.0, role.done / role.total) if role.total else None
    full = round(BAR_WIDTH * share) if share is not None else 0
    bar = "" if share is None else "━" * full + "╌" * (BAR_WIDTH - full)
    count = f"{role.done:g}" + ("" if role.total is None else f"/{role.total:g}") + f" {role.unit}"
    eta = "" if role.eta_s is None else f"ETA {status.clock(role.eta_s)}"
    parts = [count.strip() if role.total or role.done else "", eta, role.message]
    return role.phase, bar, "  ".join(part for part in parts if part)
