"""What saving and a crash cost: the wait for a checkpoint, and ten steps made again from the journal."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.figures import Figure
from bench.grpo import ours
from bench.grpo.ours import Line
from bench.grpo.work import Work

STALL, STALL_RATIO = "s that a step waits for a checkpoint", "wait for a checkpoint, asynchronous over synchronous"
SLOWER = "s that a step takes longer where a checkpoint is saved"
RECOVER, RECOVER_RATIO = "s for 10 steps after a kill", "10 steps from the journal over redoing them"
GOAL_STALL, GOAL_RECOVER = 0.25, 0.4
SAVED_STEPS, EVERY = 13, 4
LOST = 10
ASYNCHRONOUS, SYNCHRONOUS = "asynchronous", "synchronous"
JOURNAL, REDONE = "from the journal", "redone"

Say = Callable[[str], None]


def checkpoints(work: Work, repeats: int, say: Say) -> list[Figure]:
    """Return what training waits for checkpoints of the same bytes, written beside it or not."""
    waits: dict[str, list[float]] = {ASYNCHRONOUS: [], SYNCHRONOUS: []}
    more: dict[str, list[float]] = {ASYNCHRONOUS: [], SYNCHRONOUS: []}
    size = 0
    for number in range(1, repeats + 1):
        for name in waits:
            say(f"round {number}: {name} checkpoints")
            keep = {"every_steps": EVERY, "keep_last": 1, "asynchronous": name == ASYNCHRONOUS}
            run = ours.fresh(work, ours.settings(work, SAVED_STEPS, checkpoint=keep))
            lines = run.train()
            size = _bytes(run.folder / "checkpoints")
            waits[name].append(statistics.median(_waits(lines)))
            more[name].append(slower(lines))
    ratios = [mine / whole for mine, whole in zip(waits[ASYNCHRONOUS], waits[SYNCHRONOUS], strict=True)]
    note = f"{size / 1e6:.0f} MB"
    return [
        Figure(what=STALL_RATIO, who="ours", values=ratios, goal=GOAL_STALL, note=note),
        *(Figure(what=STALL, who=name, values=values, note=note) for name, values in waits.items()),
        *(Figure(what=SLOWER, who=name, values=values) for name, values in more.items()),
    ]


def recovery(work: Work, repeats: int, say: Say) -> list[Figure]:
    """Return what it takes to make ten steps again after a kill, with the journal and without."""
    spent: dict[str, list[float]] = {JOURNAL: [], REDONE: []}
    for number in range(1, repeats + 1):
        for name in spent:
            say(f"round {number}: kill, and {LOST} steps {name}")
            spent[name].append(_recovered_s(work, journal=name == JOURNAL))
    ratios = [mine / whole for mine, whole in zip(spent[JOURNAL], spent[REDONE], strict=True)]
    return [
        Figure(what=RECOVER_RATIO, who="ours", values=ratios, goal=GOAL_RECOVER),
        *(Figure(what=RECOVER, who=name, values=values) for name, values in spent.items()),
    ]


def _recovered_s(work: Work, *, journal: bool) -> float:
    """Return how long the steps 2 to 11 take after a kill behind step 11: the first has the start's costs in it.

    Raises:
        RuntimeError: The steps were redone in spite of the journal, or the other way round.
    """
    run = ours.fresh(work, ours.settings(work, LOST + 2))
    run.train_until_killed(LOST + 1)
    if not journal:
        shutil.rmtree(run.folder / "journal")
    lines = run.train()[: LOST + 1]
    replayed = [bool(line["training/replayed"]) for line in lines[1:]]
    if replayed != [journal] * LOST:
        raise RuntimeError(f"Of the steps 2 to {LOST + 1} these came from the journal: {replayed}.")
    return lines[-1]["time"] - lines[0]["time"]


def _waits(lines: Sequence[Line]) -> Iterator[float]:
    """Yield what the loop says it waited for each checkpoint; the line behind a checkpoint's step has it."""
    return (line["timing_s/save_checkpoint"] for line in _behind_checkpoints(lines))


def slower(lines: Sequence[Line]) -> float:
    """Return by how much steps with a checkpoint before them take longer than others: the wait and what is not said."""
    behind = {line["step"] for line in _behind_checkpoints(lines)}
    took = dict(zip((line["step"] for line in lines[1:]), ours.step_s(list(lines)), strict=True))
    with_it = [seconds for step, seconds in took.items() if step in behind]
    without = [seconds for step, seconds in took.items() if step not in behind]
    return statistics.median(with_it) - statistics.median(without)


def _behind_checkpoints(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line["step"] > 1 and (line["step"] - 1) % EVERY == 0]


def _bytes(folder: Path) -> int:
    newest = max(path for path in folder.iterdir() if not path.name.startswith("."))
    return sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
