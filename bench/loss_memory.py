"""How much memory the loss takes in chunks, beside the loss of whole logits.

    python -m bench.loss_memory --json loss_memory.json

Log-probabilities of completion tokens and their backward pass, from last hidden states to the gradients of states and
head, in float32, with a vocabulary of 150,000. What counts is the highest resident memory less that before the loss,
each measured in a process of its own, in turn. 1,024 tokens of a model of width 256 stand for 8,192 of one of width
2,048, and chunks of 64 for chunks of 512: both sides grow with either. Whole logits are those of completions only,
although without chunks the trainer has those of prompts as well. Exit code 1 if the goal was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, table

CHECKOUT = Path(__file__).resolve().parent.parent
SIDES = ("plain", "chunked")
MEMORY, RATIO, TIME = "peak memory of the loss, MB", "peak memory, chunked over plain", "CPU time of the loss, s"
GOAL = 0.35
TIMEOUT_S = 600.0
MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large it is: tokens of all completions, width of the model, vocabulary, tokens of a chunk."""

    tokens: int
    width: int
    vocabulary: int
    chunk: int


def measure(scale: Scale, repeats: int) -> list[Figure]:
    """Return memory and time of both, and the ratio of each repeat."""
    megabytes: dict[str, list[float]] = {side: [] for side in SIDES}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side in SIDES:
            peak, spent = _in_a_process(side, scale)
            megabytes[side].append(round(peak / MB, 1))
            seconds[side].append(round(spent, 2))
    ratios = [round(chunked / plain, 3) for plain, chunked in zip(*(megabytes[side] for side in SIDES), strict=True)]
    return [
        Figure(what=RATIO, who="chunked", values=ratios, goal=GOAL),
        *(Figure(what=MEMORY, who=side, values=megabytes[side]) for side in SIDES),
        *(Figure(what=TIME, who=side, values=seconds[side]) for side in SIDES),
    ]


def loss(side: str, scale: Scale) -> tuple[int, float]:
    """Return the peak of this process above what it has now, in bytes, and the CPU time the loss takes, in seconds."""
    # Here and not above, so that the process that only starts others does without.
    import torch

    from jobs.grpo import logprobs

    torch.manual_seed(1)
    hidden = torch.randn(scale.tokens, scale.width, requires_grad=True)
    head = logprobs.ChunkedHead(scale.width, scale.vocabulary, bias=False)
    tokens = torch.randint(scale.vocabulary, (scale.tokens,))
    banned = (scale.vocabulary - 1,)
    before, began = _resident(), time.process_time()
    if side == "plain":
        logp, _ = logprobs.of_logits(head(hidden), tokens, banned=banned, temperature=1.0)
    else:
        logp, _ = head(hidden, tokens, scoring=logprobs.Scoring(banned, 1.0, scale.chunk, False))
    logp.mean().backward()
    spent = time.process_time() - began
    # The high-water mark is of the whole life of the process; nothing before the loss comes near it.
    return _resident("VmHWM") - before, spent


def _resident(which: str = "VmRSS") -> int:
    """Return bytes in memory, now or at most. Not ``ru_maxrss``, which begins with that of the parent at the fork."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(which)) * 1024


def _in_a_process(side: str, scale: Scale) -> tuple[int, float]:
    sizes = [f"--{name}={value}" for name, value in vars(scale).items()]
    command = [sys.executable, "-m", "bench.loss_memory", f"--only={side}", *sizes]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with {ended.returncode}:\n{ended.stderr}")
    peak, spent = json.loads(ended.stdout)
    return peak, spent


def main() -> int:
    """Measure, print the table, and return 1 if the goal was missed."""
    given = _arguments()
    scale = Scale(tokens=given.tokens, width=given.width, vocabulary=given.vocabulary, chunk=given.chunk)
    if given.only:
        print(json.dumps(loss(given.only, scale)))
        return 0
    found = measure(scale, given.repeats)
    print("\n".join(table(found)))
    if given.json:
        content = {"schema": 1, "scale": vars(scale), "figures": [figure.to_json() for figure in found]}
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if any(figure.missed for figure in found) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.loss_memory", description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="of either side (default: 3)")
    parser.add_argument("--tokens", type=int, default=1024, help="of all completions (default: 1024)")
    parser.add_argument("--width", type=int, default=256, help="of the model (default: 256)")
    parser.add_argument("--vocabulary", type=int, default=150_000, help="default: 150000")
    parser.add_argument("--chunk", type=int, default=64, help="tokens of a chunk (default: 64)")
    parser.add_argument("--json", type=Path, help="file for all numbers, as measured")
    parser.add_argument("--only", choices=SIDES, help="measure one side in this process and print bytes and seconds")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
