"""A run as it goes, on a terminal: what its roles do, how the reward moves, what the judge and the clock say.

Nothing but the run's folder is read and nothing in it is written, so anybody who may read it may watch, from any
machine. The run does not notice: ``q`` or Ctrl-C ends the watching only. Without a terminal there is one line every
few seconds.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO, TypeGuard

from orchestrator import control, follow, goodput, ledger, plan, status
from orchestrator.goodput import Goodput
from orchestrator.ledger import Event
from orchestrator.run_directory import RunDirectory
from orchestrator.status import Status

if TYPE_CHECKING:
    from rich.console import RenderableType

LOOK_EVERY_S = 1.0
PRINT_EVERY_S = 5.0
ACCOUNT_EVERY_S = 5.0
"""Goodput is folded from the whole ledger and all steps; that need not be done every second."""
TAIL_BYTES = 512 * 1024
"""Of the rollouts log, for the judge's newest latencies."""
RECENT = 20
"""Steps whose median tells how long the next ones take."""
SPARK = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 40
REWARD, PART = "critic/rewards/mean", "reward/"
MISSING = "judge/nan_frac"
INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What the judge has done lately.

    Attributes:
        p50_s: Median latency of requests, seconds; None if there were none.
        p99_s: The 99th percentile; None also if rollouts, of which it is taken, are not logged.
        missing: Share of verdicts that the newest step lacks; None if no judge is asked.
    """

    p50_s: float | None = None
    p99_s: float | None = None
    missing: float | None = None


@dataclass(frozen=True, kw_only=True)
class View:
    """All that is shown at one moment.

    Attributes:
        now: The run and its roles.
        step: The newest step; 0 before the first.
        steps: How many there will be; None if that is not known yet.
        curves: The reward, first, and its parts: a value a step.
        judge: What it did lately.
        spent: Where the time went; None before the first attempt.
        saved: The newest committed step; 0 before the first.
        next_save: The step after which is saved next; None if that is not known.
        step_s: How long a step takes, seconds; None before the first.
        told: The newest thing in the ledger that is worth telling.
    """

    now: Status
    step: int = 0
    steps: int | None = None
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    judge: Judge = Judge()
    spent: Goodput | None = None
    saved: int = 0
    next_save: int | None = None
    step_s: float | None = None
    told: str = ""

    def seconds_to(self, step: int | None) -> float | None:
        """Return how long it takes until a step is done, at the pace of the latest ones."""
        if step is None or self.step_s is None or step <= self.step or self.now.state != "RUNNING":
            return None
        return (step - self.step) * self.step_s


class Reader:
    """Reads a run again and again, of logs only what is new."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._plan = plan.load(run.plan)
        self._metrics = _Tail(run.metrics)
        self._rows: dict[int, Mapping[str, Any]] = {}
        self._spent: Goodput | None = None
        self._accounted_at = -math.inf

    def read(self) -> View:
        """Return what there is to show now."""
        now, events = status.read(self._run), ledger.read(self._run.ledger)
        self._read_metrics()
        rows = [self._rows[step] for step in sorted(self._rows)]
        trainer = next((role for role in self._plan.roles if role.job in goodput.TRAINERS), None)
        saved = max((int(e.fields["step"]) for e in events if e.event == "checkpoint_committed"), default=0)
        step = int(rows[-1]["step"]) if rows else 0
        steps = _steps(now, trainer)
        return View(
            now=now,
            step=step,
            steps=steps,
            curves=_curves(rows),
            judge=_judge(self._run.rollouts, rows[-1] if rows else {}),
            spent=self._account(),
            saved=saved,
            next_save=_next_save(trainer, events, step, steps),
            step_s=_pace_s(rows),
            told=next((told for event in reversed(events) if (told := status.story(event))), ""),
        )

    def _read_metrics(self) -> None:
        anew, rows = self._metrics.read()
        if anew:  # a resume cut off what it undoes
            self._rows = {}
        for row in rows:
            if isinstance(row.get("step"), int):
                self._rows[row["step"]] = row

    def _account(self) -> Goodput | None:
        if time.monotonic() - self._accounted_at >= ACCOUNT_EVERY_S:
            self._accounted_at = time.monotonic()
            found = goodput.read(self._run)
            self._spent = found if found.allocated_s > 0 else None
        return self._spent


class _Tail:
    """A log of JSON lines that grows, or is cut and grows again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """Return whether the log begins anew, and its lines since the last call. A line still being written waits."""
        if not self._path.exists():
            return False, []
        anew = self._path.stat().st_size < self._position
        if anew:
            self._position = 0
        with self._path.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._position += len(whole)
        return anew, _rows(whole)


def watch(run: RunDirectory, out: TextIO | None = None, keys: TextIO | None = None) -> int:
    """Show a run until it has ended or somebody leaves, and return an exit code.

    Args:
        run: A run that has been submitted.
        out: Where to show it; the standard output if None.
        keys: Where ``q`` is read from, if it is a terminal; the standard input if None.

    Returns:
        The code of ``control.EXIT_CODES`` for a run that has ended; 0 after ``q``; 130 after Ctrl-C.
    """
    out, keys = out or sys.stdout, keys or sys.stdin
    with _interrupts() as interrupts, _screen(out) as show, _single_keys(keys) as pressed:
        reader = Reader(run)
        while True:
            view = reader.read()
            show(view)
            if view.now.state in control.EXIT_CODES:
                break
            if interrupts:
                return INTERRUPTED
            if pressed(LOOK_EVERY_S) == "q":
                return 0
    print(follow.ending(view.now), file=out)
    return control.EXIT_CODES[view.now.state]


def line(view: View) -> str:
    """Return everything in one line, for logs and pipes."""
    parts = [f"[{status.clock(view.now.elapsed_s)}] {view.now.name} {view.now.state}"]
    if view.step:
        parts.append(f"step {view.step}{f'/{view.steps}' if view.steps else ''}")
        parts += [f"{name} {_short(values[-1])}" for name, values in view.curves.items() if values]
        parts += [words for words in (_judge_in_words(view.judge), _goodput_in_words(view), _ahead(view)) if words]
    else:
        parts += [status.line(role) for role in view.now.roles if role.state not in ("done", "stopped")]
    return ", ".join(parts)


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """Return values as a row of blocks, lowest to highest; several steps share one if there are more than fit.

    >>> sparkline([0.0, 0.5, 1.0]), sparkline([2.0, 2.0]), sparkline([])
    ('▁▅█', '▄▄', '')
    """
    if not values:
        return ""
    size = max(1.0, len(values) / width)
    groups = [
        values[int(k * size) : max(int(k * size) + 1, int((k + 1) * size))] for k in range(int(len(values) / size))
    ]
    means = [math.fsum(group) / len(group) for group in groups]
    low, high = min(means), max(means)
    if high == low:
        return SPARK[3] * len(means)
    return "".join(SPARK[round((value - low) / (high - low) * (len(SPARK) - 1))] for value in means)


def picture(view: View) -> RenderableType:
    """Return the view for a terminal."""
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    curves = Table.grid(padding=(0, 2), pad_edge=False)
    for name, values in view.curves.items():
        if values:
            style = "bold" if name == "reward" else ""
            curves.add_row(
                Text(name, style=style), Text(sparkline(values), style="cyan"), Text(_short(values[-1]), style=style)
            )
    facts = [_judge_in_words(view.judge), _goodput_in_words(view), _ahead(view), view.told]
    progress = [Text(_bar(view), style="cyan")] if view.steps else []
    parts: list[RenderableType] = [follow.bars(view.now), *progress]
    parts += [Text(), curves] if curves.row_count else []
    parts += [
        Text(),
        *(
            Text(fact, style="dim" if fact == view.told else "", overflow="ellipsis", no_wrap=True)
            for fact in facts
            if fact
        ),
    ]
    return Panel(
        Group(*parts), box=box.ROUNDED, border_style="dim", subtitle="q leaves; the run goes on", padding=(0, 1)
    )


def _bar(view: View) -> str:
    assert view.steps is not None
    full = round(SPARK_WIDTH * min(1.0, view.step / view.steps))
    return f"{'━' * full}{'╌' * (SPARK_WIDTH - full)} step {view.step} of {view.steps}"


def _ahead(view: View) -> str:
    parts = []
    if view.next_save is not None:
        soon = view.seconds_to(view.next_save)
        parts.append(
            f"next checkpoint at step {view.next_save}" + (f" in {status.clock(soon)}" if soon is not None else "")
        )
    if view.saved:
        parts.append(f"saved {view.saved}")
    end = view.seconds_to(view.steps)
    return ", ".join(parts + ([f"ETA {status.clock(end)}"] if end is not None else []))


def _judge_in_words(judge: Judge) -> str:
    parts = []
    if judge.p50_s is not None:
        parts.append(f"judge p50 {judge.p50_s:.2f} s")
    if judge.p99_s is not None:
        parts.append(f"p99 {judge.p99_s:.2f} s")
    if judge.missing is not None:
        parts.append(f"missing {judge.missing:.1%}")
    return ", ".join(parts)


def _goodput_in_words(view: View) -> str:
    spent = view.spent
    if spent is None:
        return ""
    others = sorted((seconds, cause) for cause, seconds in spent.seconds.items() if cause != "productive")
    largest = [
        f"{cause.replace('_', ' ')} {seconds / spent.allocated_s:.0%}"
        for seconds, cause in others[:-3:-1]
        if seconds > 0
    ]
    return f"goodput {spent.goodput:.0%}" + (f" ({', '.join(largest)})" if largest else "")


def _short(value: float) -> str:
    return f"{value:.3g}"


def _steps(now: Status, trainer: plan.Role | None) -> int | None:
    """Return how many steps there will be: as the trainer says, else as the recipe does."""
    if trainer is None:
        return None
    role = next(role for role in now.roles if role.role == trainer.name)
    if role.unit == "steps" and role.total:
        return int(role.total)
    planned = trainer.settings.get("steps")
    return planned if isinstance(planned, int) else None


def _next_save(trainer: plan.Role | None, events: Sequence[Event], step: int, steps: int | None) -> int | None:
    if trainer is None or (steps is not None and step >= steps):
        return None
    given = trainer.settings.get("checkpoint")
    every = given.get("every_steps") if isinstance(given, Mapping) else None
    if not isinstance(every, int):
        # Not in the recipe, so it is the job's own default; the first checkpoint shows it.
        every = next((int(e.fields["step"]) for e in events if e.event == "checkpoint_committed"), None)
    if not every:
        return None
    following = (step // every + 1) * every
    return min(following, steps) if steps is not None else following


def _pace_s(rows: Sequence[Mapping[str, Any]]) -> float | None:
    took = [float(row["timing_s/step"]) for row in rows[-RECENT:] if _is_number(row.get("timing_s/step"))]
    return statistics.median(took) if took else None


def _curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    names = dict.fromkeys(key for row in rows for key in row if key.startswith(PART))
    shown = {"reward": REWARD} | {name.removeprefix(PART).replace("_", " "): name for name in names}
    return {name: [float(row[key]) for row in rows if _is_number(row.get(key))] for name, key in shown.items()}


def _judge(rollouts: Path, newest: Mapping[str, Any]) -> Judge:
    missing = newest.get(MISSING)
    latencies_s = sorted(_latencies_s(rollouts))
    median_s = newest.get("judge/latency_p50")
    return Judge(
        p50_s=_quantile(latencies_s, 0.5) if latencies_s else float(median_s) if _is_number(median_s) else None,
        p99_s=_quantile(latencies_s, 0.99) if latencies_s else None,
        missing=float(missing) if _is_number(missing) else None,
    )


def _latencies_s(rollouts: Path) -> Iterator[float]:
    """Yield how long the newest requests took; verdicts from the cache took none."""
    if not rollouts.exists():
        return
    with rollouts.open("rb") as file:
        file.seek(max(0, rollouts.stat().st_size - TAIL_BYTES))
        text = file.read()
    for row in _rows(text):
        judge = row.get("judge")
        if isinstance(judge, dict) and not judge.get("cached") and _is_number(judge.get("latency_s")):
            yield float(judge["latency_s"])


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _rows(text: bytes) -> list[dict[str, Any]]:
    """Return the whole lines; the first and the last may have been cut."""
    found = []
    for written in text.splitlines():
        try:
            row = json.loads(written)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect Ctrl-C; the loop acts."""
    seen: list[int] = []

    def record(number: int, _frame: FrameType | None) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGINT, record)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _screen(out: TextIO) -> Iterator[Any]:
    """Yield what shows a view: in place on a terminal, line by line elsewhere."""
    from rich.console import Console

    console = Console(file=out, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _Lines(out).show
        return
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        yield lambda view: live.update(picture(view), refresh=True)


class _Lines:
    """Prints a view when enough time has passed, its state has changed, or it is the last."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._printed_at = -math.inf
        self._state = ""

    def show(self, view: View) -> None:
        due = time.monotonic() - self._printed_at >= PRINT_EVERY_S
        if due or view.now.state != self._state:
            self._printed_at, self._state = time.monotonic(), view.now.state
            print(line(view), file=self._out, flush=True)


@contextmanager
def _single_keys(keys: TextIO) -> Iterator[Any]:
    """Yield what waits for a key at most so many seconds; without a terminal it only waits."""
    if not keys.isatty():
        yield _waited
        return
    import termios
    import tty

    descriptor = keys.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)  # Ctrl-C stays a signal

    def pressed(timeout_s: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], timeout_s)
        return os.read(descriptor, 1).decode(errors="replace") if ready else ""

    try:
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _waited(timeout_s: float) -> str:
    time.sleep(timeout_s)
    return ""
