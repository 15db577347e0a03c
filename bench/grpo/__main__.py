"""What a GRPO step costs, beside TRL's on the same work, and whether its gradient is TRL's.

    python -m bench.grpo --cache ~/.cache/orchestrator-bench --json grpo.json
    python -m bench.grpo --cache ~/.cache/orchestrator-bench --parts gradients
    python -m bench.grpo --cache ~/.cache/orchestrator-bench --quick        every line; its times mean nothing

A tiny Qwen2.5-VL with drawn scenes, the same weights, prompts, lengths and AdamW for both, one thread per process.
Every round measures each side in turn, a process of its own each; a round's value is the median of its steps. The
cache folder gets a virtual environment with TRL, 1.5 GB, as ``bench.cli`` has one with TorchX; without ``--cache`` TRL
is not measured, and goals that are ratios to it are not judged. Exit code 1 if a goal was missed.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import loss_memory, trl
from bench.figures import Figure, table
from bench.grpo import gradients, stalls, steps, work
from bench.grpo.steps import Side
from bench.grpo.work import Size

SIGNAL_BASE = 128
PARTS = ("gradients", "steps", "checkpoints", "recovery", "memory")
SAVED = Size(hidden=512, layers=12, prompts=2, samples=2, tokens=16, mean_tokens=16)
"""For checkpoints: 47 million parameters, 560 MB with AdamW's moments, and steps that are short."""
QUICK = Size(hidden=64, layers=2, prompts=2, samples=4, tokens=16, mean_tokens=12, steps=3, micro_batch=8)


def measure(folder: Path, python: Path | None, given: argparse.Namespace) -> list[Figure]:
    """Return the figures of all parts that are asked for."""
    size = QUICK if given.quick else Size(steps=given.steps, micro_batch=given.micro_batch)
    repeats = 1 if given.quick else given.repeats
    the_work = work.build(_made(folder / "work"), size)
    found: list[Figure] = []
    if "gradients" in given.parts:
        say("gradients")
        found += gradients.measure(the_work, python)
    if "steps" in given.parts:
        rays = (False,) if given.no_ray else (False, True)
        sides = [Side(staleness=staleness, ray=ray) for staleness in (0, 1) for ray in rays]
        found += steps.measure(the_work, python, repeats, say, sides=sides, judge_s=given.judge_s)
    if "checkpoints" in given.parts:
        saved = the_work if given.quick else work.build(_made(folder / "saved"), SAVED)
        found += stalls.checkpoints(saved, repeats, say)
    if "recovery" in given.parts:
        found += stalls.recovery(the_work, repeats, say)
    if "memory" in given.parts:
        say("memory of the loss")
        scale = loss_memory.Scale(tokens=1024, width=256, vocabulary=150_000, chunk=64)
        found += loss_memory.measure(scale, repeats)
    return found


def say(line: str) -> None:
    """Say what is being done."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 1 if a goal was missed."""
    given = _arguments(arguments)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(SIGNAL_BASE + number))  # ends what it has started
    python = trl.installed(given.cache) if given.cache else None
    with tempfile.TemporaryDirectory(prefix="grpo-") as folder:
        found = measure(Path(folder), python, given)
    print("\n".join(table(found)))
    if given.json:
        content = {"schema": 1, "figures": [figure.to_json() for figure in found]}
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if any(figure.missed for figure in found) else 0


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.grpo", description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, help="folder for TRL's environment; left out: TRL is not measured")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--steps", type=int, default=Size.steps, help=f"of one measurement (default: {Size.steps})")
    parser.add_argument(
        "--micro-batch", type=int, default=Size.micro_batch, help=f"rows of a pass (default: {Size.micro_batch})"
    )
    parser.add_argument("--judge-s", type=float, help="the judge's median latency (default: half of TRL's sampling)")
    parser.add_argument("--no-ray", action="store_true", help="ours in one process only")
    parser.add_argument("--quick", action="store_true", help="little work, once: to see that everything runs")
    parser.add_argument("--json", type=Path, help="file for all numbers, as measured")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
