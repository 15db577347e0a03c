"""How long rewards take, beside the published algorithms, and how fast a file of data is checked.

    python -m bench.rewards --json rewards.json
    python -m bench.rewards --parts detection answers

``edit_distance``: pages of 4,000 characters with a few errors, ours and nltk's, which the published OCR reward uses.
``detection``: 50 predicted and 50 true boxes, ours and the published one (torch and scipy), the response's JSON
included; before that, both must give the same reward under ``faithful``. ``answers``: a batch of 1,024 mathematical
answers through the processes that can be killed, and through math-verify itself in as many processes, in turn; then
a quarter of the batch without and with one answer in the middle that keeps sympy busy for ever. ``data``: see
``bench.data_check``.

Edit distance and detection are the least processor time of many calls (of one, where it takes seconds); answers are in
wall-clock time. Exit code 1 if a goal was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from bench import published
from bench.figures import Figure, table
from eval import coco, detection, edit_distance
from eval.answer_checker import AnswerChecker
from eval.answers import correct
from eval.target import Space, Target

PAGE_RATIO, PAGE_TIME = "edit distance of a page, nltk over ours", "edit distance of a page, ms"
BOXES_TIME = "detection reward, 50 boxes against 50, ms"
RATE_SHARE, RATE = "answers a second, ours over math-verify alone", "answers a second"
HANG_COST = "what one hanging answer adds to a batch, s"
HANG_OTHERS = "other answers whose reward it changed"
HANGS = "\\boxed{9^{9^{9^{9}}}}"
SIDE_PX = 1000
T = TypeVar("T")
Row = tuple[str, str]
"""A response and the true answer."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large it is and how often.

    Attributes:
        repeats: Of every measurement.
        characters: Of a page.
        boxes: Predicted, and as many true.
        answers: In a batch.
        images: Of the file of data that is checked.
        timeout_s: For one answer.
    """

    repeats: int = 3
    characters: int = 4000
    boxes: int = 50
    answers: int = 1024
    images: int = 10_000
    timeout_s: float = 5.0


def measure_pages(scale: Scale) -> list[Figure]:
    """Return the time of one page by either side, and how many times faster ours is."""
    ours: list[float] = []
    theirs: list[float] = []
    for seed in range(scale.repeats):
        read, truth = page(scale.characters, seed)
        found, ours_ms = _timed(partial(edit_distance.similarity, read, truth), 50)
        expected, theirs_ms = _timed(partial(published.ocr, read, truth), 1)
        _check_equal("edit distance", found, expected)
        ours.append(ours_ms)
        theirs.append(theirs_ms)
    ratios = [round(slow / fast) for slow, fast in zip(theirs, ours, strict=True)]
    note = f"{scale.characters} characters, one in thirty wrong"
    return [
        Figure(what=PAGE_RATIO, who="ours", values=ratios, goal=1000.0, bound="at least", note=note),
        Figure(what=PAGE_TIME, who="ours", values=ours),
        Figure(what=PAGE_TIME, who="nltk", values=theirs),
    ]


def measure_boxes(scale: Scale) -> list[Figure]:
    """Return the time of one detection reward by either side."""
    ours: list[float] = []
    theirs: list[float] = []
    for seed in range(scale.repeats):
        response, target = scene(scale.boxes, seed)
        solution = {"target_id": [coco.IDS[label] for label in target.labels], "target_box": target.boxes}
        score = partial(detection.score, response, target, "pixel")
        faithful = score(detection.Rules(faithful=True)).reward
        _, ours_ms = _timed(score, 200)
        expected, theirs_ms = _timed(partial(published.detection, response, solution), 200)
        _check_equal("detection", faithful, expected)
        ours.append(ours_ms)
        theirs.append(theirs_ms)
    return [
        Figure(what=BOXES_TIME, who="ours", values=ours, goal=1.0),
        Figure(what=BOXES_TIME, who="published, torch and scipy", values=theirs),
    ]


def measure_answers(scale: Scale) -> list[Figure]:
    """Return the throughput of either side, in turn, and what a hanging answer costs."""
    cores = len(os.sched_getaffinity(0))
    rows = answers(scale.answers)
    seconds: dict[str, list[float]] = {"ours": [], "math-verify": []}
    hangs: list[tuple[float, float]] = []
    # A new interpreter for each, as in ours; a fork would begin with all of this process's memory.
    with multiprocessing.get_context("spawn").Pool(cores, _quiet) as pool, _checker(cores, scale.timeout_s) as checker:
        pool.map(_compared, rows[: 4 * cores], chunksize=1)
        _batch(checker, rows[: 4 * cores])
        for _ in range(scale.repeats):
            alone, alone_s = _wall(partial(pool.map, _compared, rows, chunksize=8))
            found, ours_s = _wall(partial(_batch, checker, rows))
            _check_equal("answers", found, alone)
            seconds["ours"].append(ours_s)
            seconds["math-verify"].append(alone_s)
            hangs.append(_hang(checker, rows[: len(rows) // 4]))
    shares = [round(alone / ours, 3) for alone, ours in zip(seconds["math-verify"], seconds["ours"], strict=True)]
    note = f"{scale.answers} answers, {cores} process(es) each, in turn"
    costs_s, changed = zip(*hangs, strict=True)
    return [
        Figure(what=RATE_SHARE, who="ours", values=shares, goal=0.8, bound="at least", note=note),
        *(
            Figure(what=RATE, who=side, values=[round(len(rows) / each, 1) for each in taken])
            for side, taken in seconds.items()
        ),
        Figure(what=HANG_COST, who="ours", values=list(costs_s), goal=scale.timeout_s, note="a quarter of the batch"),
        Figure(what=HANG_OTHERS, who="ours", values=list(changed), goal=0.0),
    ]


def _hang(checker: AnswerChecker, rows: Sequence[Row]) -> tuple[float, float]:
    """Return the seconds that a hanging answer in the middle adds, and how many other rewards it changed."""
    middle = len(rows) // 2
    without, without_s = _wall(partial(_batch, checker, rows))
    found, with_s = _wall(partial(_batch, checker, [*rows[:middle], (HANGS, "5"), *rows[middle:]]))
    if found.pop(middle) is not None:
        raise SystemExit(f"{HANGS} was compared in time, so it hangs nobody.")
    return round(with_s - without_s, 2), float(sum(one != other for one, other in zip(found, without, strict=True)))


def measure_data(scale: Scale) -> list[Figure]:
    """Return how fast a file of images is checked."""
    from bench import data_check

    return data_check.measure(scale.images, scale.repeats)


PARTS: dict[str, Callable[[Scale], list[Figure]]] = {
    "edit_distance": measure_pages,
    "detection": measure_boxes,
    "answers": measure_answers,
    "data": measure_data,
}


def page(characters: int, seed: int) -> tuple[str, str]:
    """Return a page as it was read, and as it is: words of random letters, one character in thirty wrong."""
    rng = random.Random(seed)
    letters = [rng.choice("etaoinshrdlucmfwypvbgkjqxz     ") for _ in range(2 * characters)]
    truth = " ".join("".join(letters).split())[:characters].strip()
    read = [_misread(letter, rng) if rng.random() < 1 / 30 else letter for letter in truth]
    return "".join(read), truth


def _misread(letter: str, rng: random.Random) -> str:
    return rng.choice(["", f"{letter}{letter}", rng.choice("etaoin")])


def scene(boxes: int, seed: int) -> tuple[str, Target]:
    """Return a response of so many boxes, most of them near a true one, and as many true boxes."""
    rng = random.Random(seed)
    names = coco.NAMES[:-1]  # The published code fails on the last.
    truths = []
    for _ in range(boxes):
        x, y = rng.randrange(SIDE_PX - 60), rng.randrange(SIDE_PX - 60)
        width, height = rng.randrange(20, min(300, SIDE_PX - x)), rng.randrange(20, min(300, SIDE_PX - y))
        truths.append((rng.choice(names), (float(x), float(y), float(x + width), float(y + height))))
    found = [
        {
            "bbox_2d": [round(value + rng.uniform(-4, 4)) for value in box],
            "label": label if rng.random() < 0.9 else rng.choice(names),
        }
        for label, box in truths
    ]
    rng.shuffle(found)
    target = Target(
        space=Space(system="pixel", width_px=SIDE_PX, height_px=SIDE_PX),
        boxes=tuple(box for _, box in truths),
        labels=tuple(label for label, _ in truths),
    )
    return f"```json\n{json.dumps(found)}\n```", target


def answers(number: int) -> list[Row]:
    """Return responses and true answers as in geometry: numbers, fractions, roots, angles, formulas; half are right."""
    rng = random.Random(0)
    rows = []
    for place in range(number):
        a, b, c = rng.randrange(2, 90), rng.randrange(2, 90), rng.randrange(2, 30)
        truth, same = [
            (f"{a}", f"{a}.0"),
            (f"\\frac{{{a}}}{{{b}}}", f"\\frac{{{2 * a}}}{{{2 * b}}}"),
            (f"{a}\\sqrt{{{c}}}", f"\\sqrt{{{a * a * c}}}"),
            (f"{a}^\\circ", f"{a}"),
            (f"{a}x + {b}y", f"{b}y + {a}x"),
        ][place % 5]
        said = same if rng.random() < 0.5 else f"{a + 1}"
        thinking = f"Since AB = {b} and the angle at C is {c} degrees, the side follows. " * 6
        rows.append((f"<think>\n{thinking}\n</think>\n<answer>\n\\boxed{{{said}}}\n</answer>", f"${truth}$"))
    return rows


def _quiet() -> None:
    # As in ours: math-verify warns at every answer that it has no time limit of its own.
    logging.disable(logging.ERROR)


def _compared(row: Row) -> float:
    return float(correct(*row))


def _checker(processes: int, timeout_s: float) -> AnswerChecker:
    return AnswerChecker(processes=processes, timeout_s=timeout_s)


def _batch(checker: AnswerChecker, rows: Sequence[Row]) -> list[float | None]:
    async def main() -> list[float | None]:
        return await asyncio.gather(*(checker.check(*row) for row in rows))

    return asyncio.run(main())


def _wall(call: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    found = call()
    return found, time.perf_counter() - began


def _timed(call: Callable[[], T], times: int) -> tuple[T, float]:
    """Return what a call returns, and the least of its processor times in milliseconds.

    The least, since neighbours on the machine that share caches and cores only ever add to it.
    """
    spent = []
    for _ in range(times):
        began = time.process_time_ns()
        found = call()
        spent.append((time.process_time_ns() - began) / 1e6)
    return found, round(min(spent), 4)


def _check_equal(what: str, ours: object, theirs: object) -> None:
    both = isinstance(ours, float) and isinstance(theirs, float)
    if not (abs(ours - theirs) < 1e-5 if both else ours == theirs):
        raise SystemExit(f"{what}: Ours gives {ours!r:.200}, the published algorithm {theirs!r:.200}.")


def main() -> int:
    """Measure, print the table, and return 1 if a goal was missed."""
    given = _arguments()
    scale = Scale(
        repeats=given.repeats,
        characters=given.characters,
        boxes=given.boxes,
        answers=given.answers,
        images=given.images,
        timeout_s=given.timeout,
    )
    figures = [figure for part in given.parts for figure in PARTS[part](scale)]
    print("\n".join(table(figures)))
    if given.json:
        content = {"schema": 1, "scale": vars(scale), "figures": [figure.to_json() for figure in figures]}
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if any(figure.missed for figure in figures) else 0


def _arguments() -> argparse.Namespace:
    scale = Scale()
    parser = argparse.ArgumentParser(prog="python -m bench.rewards", description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all of them")
    parser.add_argument("--repeats", type=int, default=scale.repeats, help="of everything (default: 3)")
    parser.add_argument("--characters", type=int, default=scale.characters, help="of a page (default: 4000)")
    parser.add_argument("--boxes", type=int, default=scale.boxes, help="predicted, and as many true (default: 50)")
    parser.add_argument("--answers", type=int, default=scale.answers, help="in a batch (default: 1024)")
    parser.add_argument("--images", type=int, default=scale.images, help="of the data check (default: 10000)")
    parser.add_argument("--timeout", type=float, default=scale.timeout_s, help="seconds for one answer (default: 5)")
    parser.add_argument("--json", type=Path, help="file for all numbers, as measured")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
