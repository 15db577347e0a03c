"""A comparison as tables in a terminal of 80 columns or more."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.compare import Comparisons
from eval.comparison import Comparison, p_value
from eval.significance import Interval

CELL_CHARACTERS = 48
NUMBERS = ("before", "after", "change", "p")


def show(found: Comparisons, flips: int, console: Console | None = None) -> None:
    """Print a comparison: an overview, then each task, then what was set differently.

    Args:
        found: What to print.
        flips: How many changed problems of a task to list.
        console: Where to; the standard output if left out.
    """
    to = console or Console()
    _line(to, f"Compared with {found.arms[0].name}; intervals of 95 % over problems.")
    to.print(_overview(found))
    for one in found.results:
        _details(one, to, flips)
    if found.totals:
        to.print(_totals(found))
    if found.changes:
        to.print(_changes(found))
    for note in found.notes:
        _line(to, f"note: {note}")


def _overview(found: Comparisons) -> Table:
    table = _table("", "Task", "before", "after", "change", "p")
    for one in found.results:
        model = [one.labels[1]] if len(found.arms) > 2 else []
        table.add_row(
            Text("\n".join((one.task, *model, f"{one.measure}, n={one.counts[1]}"))),
            _interval(one.intervals[0]),
            _interval(one.intervals[1]),
            _interval(one.difference, signed=True),
            "-" if one.p is None else "\n".join(_p_values(one)),
        )
    return table


def _p_values(one: Comparison) -> list[str]:
    assert one.p is not None
    if one.corrected is None or one.corrected.family == 1:
        return [p_value(one.p)]
    corrected = one.corrected
    return [p_value(one.p), f"Holm {p_value(corrected.holm)}", f"BH {p_value(corrected.benjamini_hochberg)}"]


def _details(one: Comparison, to: Console, flips: int) -> None:
    _line(to, f"{one.task}, {one.labels[1]}: {one.sentence}")
    if one.unchecked:
        _line(to, f"{one.unchecked} problems are left out, because an answer has no value.")
    parts = _parts(one)
    if parts.row_count:
        to.print(parts)
    if one.over_seeds:
        _line(to, _seeds(one))
    if one.flips and flips:
        to.print(_flips(one, flips))


def _parts(one: Comparison) -> Table:
    table = _table("", "Part", "before", "after", "change", "missing")
    for metric in one.metrics:
        if metric.name == one.measure:
            continue
        missing = "" if metric.missing == (0, 0) else f"{metric.missing[0]}, {metric.missing[1]}"
        change = _interval(metric.difference, signed=True)
        table.add_row(Text(metric.name), _number(metric.before), _number(metric.after), change, missing)
    for k in one.passes:
        change = _interval(k.difference, signed=True)
        table.add_row(f"pass@{k.k}", _interval(k.before), _interval(k.after), change, "")
    return table


def _seeds(one: Comparison) -> str:
    assert one.over_seeds is not None
    before, after = one.over_seeds.before, one.over_seeds.after
    listed = [", ".join(_number(value) for value in of.values) for of in (before, after)]
    change = _interval(one.over_seeds.difference, signed=True, lines=1)
    return (
        f"Over seeds: ({listed[0]}) to ({listed[1]}), standard deviations {_number(before.deviation)} and "
        f"{_number(after.deviation)}; change of the means {change} (Welch)."
    )


def _flips(one: Comparison, most: int) -> Table:
    gained = sum(flip.gained for flip in one.flips)
    title = f"{gained} gained, {len(one.flips) - gained} lost"
    title += f"; the first {most}" if len(one.flips) > most else ""
    table = _table(title, "Problem", "", "Truth", "Before", "After")
    for flip in one.flips[:most]:
        table.add_row(
            Text(flip.id),
            "gained" if flip.gained else "lost",
            _short(flip.answer),
            _said(flip.said_before, flip.before),
            _said(flip.said_after, flip.after),
        )
    return table


def _totals(found: Comparisons) -> Table:
    table = _table("Over all answers together, without a test", "Task", "Number", "before", "after", "model")
    for total in found.totals:
        values = ["-" if value is None else f"{value:.4g}" for value in (total.before, total.after)]
        table.add_row(Text(total.task), Text(total.name), *values, Text(total.arm))
    return table


def _changes(found: Comparisons) -> Table:
    table = _table("Settings that differ", "Setting", "Model", "First", "Other")
    for change in found.changes:
        table.add_row(Text(change.key), Text(change.arm), _value(change.before), _value(change.after))
    return table


def _table(title: str, *columns: str) -> Table:
    # Texts, not markup: what a model wrote may hold brackets.
    table = Table(title=Text(title) if title else None, box=box.SIMPLE, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold", no_wrap=column in NUMBERS)
    return table


def _line(to: Console, text: str) -> None:
    to.print(Text(text))


def _said(answers: Sequence[str | None], share: float) -> Text:
    said = _short(" | ".join("nothing" if one is None else one for one in answers))
    return said if share in (0, 1) else Text(f"{share:.0%}: ") + said


def _value(value: Any) -> Text:
    return _short("-" if value is None else json.dumps(value, ensure_ascii=False))


def _short(text: str) -> Text:
    line = " ".join(text.split())
    return Text(line if len(line) <= CELL_CHARACTERS else f"{line[: CELL_CHARACTERS - 3]}...")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _interval(interval: Interval, *, signed: bool = False, lines: int = 2) -> str:
    if math.isnan(interval.estimate):
        return "-"
    form = "+.3f" if signed else ".3f"
    if math.isnan(interval.low):
        return f"{interval.estimate:{form}}"
    bounds = f"{interval.low:{form}} to {interval.high:{form}}"
    return f"{interval.estimate:{form}}\n{bounds}" if lines == 2 else f"{interval.estimate:{form}} ({bounds})"
