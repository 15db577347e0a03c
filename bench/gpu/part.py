"""One measurement in a process of its own: ``python -m bench.gpu.part NAME FOLDER RESULT.json [--tiny]``."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.gpu import stage as stages
from bench.gpu.stage import Stage

Result = dict[str, Any]
UPDATES, STEPS = 4, 4
"""How many are made; the first warms up."""
SIGNAL_BASE = 128


def build(stage: Stage, folder: Path) -> Result:
    """Write the untrained model."""
    return {"parameters": stages.build(stage, folder)}


def padded(stage: Stage, folder: Path) -> Result:
    """Measure updates with padded rows."""
    return _update(stage, folder, packing=False)


def packed(stage: Stage, folder: Path) -> Result:
    """Measure updates with rows put one behind the other."""
    return _update(stage, folder, packing=True)


def checkpoint(stage: Stage, folder: Path) -> Result:
    """Measure what training waits for a checkpoint that is written beside it, or not, and how it is slowed down."""
    policy, rows = _policy(stage, folder, packing=True), stages.rows(stage, folder)
    policy.step(rows, 1e-6)
    alone_s = _seconds(lambda: policy.step(rows, 1e-6))
    target = folder / "checkpoint"
    snapshot_s = _seconds(policy.snapshot)
    write_s = _seconds(lambda: policy.write(target))
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    shutil.rmtree(target)
    policy.snapshot()
    # A daemon: it need not come to its end, only last as long as an update.
    writing = threading.Thread(target=policy.write, args=(target,), daemon=True)
    writing.start()
    beside_s = _seconds(lambda: policy.step(rows, 1e-6))
    return {
        "bytes": size,
        "stall_synchronous_s": snapshot_s + write_s,
        "stall_asynchronous_s": snapshot_s,
        "asynchronous_over_synchronous": snapshot_s / (snapshot_s + write_s),
        "written_mb_per_s": size / 1e6 / write_s,
        "update_s": alone_s,
        "update_s_beside_writing": beside_s,
        "still_writing_after_it": writing.is_alive(),
    }


def step(stage: Stage, folder: Path) -> Result:
    """Measure whole GRPO steps of ours: Hugging Face's sampling and the update on one GPU, without Ray."""
    from bench.grpo import ours

    work = stages.problem(stage, folder, STEPS)
    values = {
        "model": work.model,
        "data": {"path": str(folder / "prompts.json"), "source": "bench.gpu.stage:load"},
        "format_prompt": "",
        "rewards": {ours.GIVEN: 1.0},
        # One more than is measured: a finished run writes a checkpoint, which is another part's matter.
        "steps": STEPS + 1,
        "prompts_per_step": work.prompts_per_step,
        "samples_per_prompt": work.samples_per_prompt,
        "engine": {"max_new_tokens": work.max_new_tokens, "batch": work.rows},
        # An untrained model in bfloat16: how far engine and trainer are apart is no measure of anything.
        "policy": {
            **_policy_settings(stage, packing=True),
            "learning_rate": work.learning_rate,
            "logprob_tolerance": 9.0,
        },
        "checkpoint": {"every_steps": 1000},
        "ray": False,
        "log_rollouts": False,
    }
    run = ours.Run(folder / "ours", values)
    run.train_until_killed(STEPS)
    lines = run.lines()[:STEPS]
    return {
        "step_s": statistics.median(ours.step_s(lines)),
        "sampling_s": statistics.median(line["timing_s/gen"] for line in lines[1:]),
        "update_s": statistics.median(line["timing_s/update_actor"] for line in lines[1:]),
        "tokens": statistics.median(line["response_length/mean"] * work.rows for line in lines[1:]),
    }


def trl(stage: Stage, folder: Path) -> Result:
    """Measure the same steps of TRL's trainer, if it can be imported."""
    if find_spec("trl") is None:
        return {"not_measured": "trl is not installed here"}
    from bench.grpo import peer

    steps = peer.run(Path(sys.executable), stages.problem(stage, folder, STEPS), folder)[1:]
    return {
        "step_s": statistics.median(step["step_s"] for step in steps),
        "sampling_s": statistics.median(step["generate_s"] for step in steps),
        "update_s": statistics.median(step["step_s"] - step["generate_s"] for step in steps),
        "tokens": statistics.median(step["tokens"] for step in steps),
    }


PARTS: dict[str, Callable[[Stage, Path], Result]] = {
    part.__name__: part for part in (build, padded, packed, step, trl, checkpoint)
}


def _update(stage: Stage, folder: Path, *, packing: bool) -> Result:
    import torch

    from jobs.grpo import throughput

    policy, rows = _policy(stage, folder, packing=packing), stages.rows(stage, folder)
    took = [_seconds(lambda: policy.step(rows, 1e-6)) for _ in range(UPDATES)]
    seconds = statistics.median(took[1:])
    sizes = _sizes(policy.processor, rows)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    shares = throughput.mfu(
        throughput.shape(_config(folder)),
        sizes,
        policy.settings.policy,
        seconds=seconds,
        gpus=1,
        device=device,
    )
    return {
        "update_s": seconds,
        "first_update_s": took[0],
        "rows": len(rows),
        "tokens": sum(size.tokens for size in sizes),
        "tokens_per_s": sum(size.tokens for size in sizes) / seconds,
        "memory_gb": torch.cuda.max_memory_allocated() / 1e9 if device else None,
        "device": device,
        **shares,
    }


def _policy(stage: Stage, folder: Path, *, packing: bool) -> Any:
    from jobs.grpo.policy import Policy
    from jobs.grpo.settings import Settings

    given = {
        "model": str(folder / "model"),
        "data": {"path": str(folder / "prompts.json"), "source": "bench.gpu.stage:load"},
        "rewards": {"repetition": 1.0},
        # The rows were not sampled by this model.
        "policy": {**_policy_settings(stage, packing=packing), "logprob_tolerance": 1e9},
    }
    return Policy(Settings.model_validate(given), str(folder / "model"))


def _policy_settings(stage: Stage, *, packing: bool) -> dict[str, Any]:
    return {
        "dtype": "bfloat16",
        "gradient_checkpointing": True,
        "micro_batch_tokens": stage.micro_batch_tokens,
        "packing": packing,
        "logprob_chunk": stage.chunk,
    }


def _sizes(processor: Any, rows: Sequence[Any]) -> list[Any]:
    from jobs import vlm
    from jobs.grpo.throughput import RowSize

    prompts = {row.example: vlm.encode(processor, row.text, row.images) for row in rows}
    return [
        RowSize(
            tokens=len(prompts[row.example].input_ids) + len(row.tokens),
            completion=len(row.tokens),
            images=tuple(tuple(grid) for grid in prompts[row.example].image_grid_thw.tolist()),
        )
        for row in rows
    ]


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder / "model")


def _seconds(work: Callable[[], Any]) -> float:
    """Return how long a piece of work takes, the GPU's share included."""
    import torch

    wait: Callable[[], None] = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def main() -> int:
    """Measure one part and write its result."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.part", description=__doc__)
    parser.add_argument("name", choices=PARTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--layers", type=int, default=Stage.layers)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(SIGNAL_BASE + number))  # ends what it has started
    stage = stages.TINY if given.tiny else Stage(layers=given.layers)
    given.result.write_text(json.dumps(PARTS[given.name](stage, given.folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
