"""What training costs on one GPU, in at most nine minutes.

    python -m bench.gpu --json gpu.json
    python -m bench.gpu --device cpu --tiny          every line, without a GPU; its numbers mean nothing

An untrained Qwen2.5-VL of 2.8 billion parameters with an image in every prompt, bfloat16 with float32 master weights,
gradient checkpointing. Measured are the update (MFU, tokens/s, memory) with padded and with packed rows, whole GRPO
steps of ours and, where it is installed, of TRL, and what training waits for a checkpoint of 34 GB.

Every part is a process of its own with a limit of its own. One that fails or takes too long is told with its last
words, and the next begins; what is measured is written after every part. Exit code 1 if a part failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
LIMITS_S = {"build": 120, "padded": 100, "packed": 100, "step": 120, "trl": 120, "checkpoint": 180}
"""The longest each part may take. They add up to more than the whole may, since none is expected to need its own."""
LAST_WORDS = 1500
SIGNAL_BASE = 128
GB = 1e9


def measure(folder: Path, given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return every part's result by its name; one that failed has ``failed``, one there was no time for too."""
    until = time.monotonic() + 60 * given.minutes
    found: dict[str, dict[str, Any]] = {}
    for name in ("build", *given.parts):
        limit_s = min(LIMITS_S[name], until - time.monotonic())
        began = time.monotonic()
        found[name] = _part(name, folder, given, limit_s) if limit_s > 0 else {"failed": "no time was left"}
        found[name]["wall_s"] = round(time.monotonic() - began, 1)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
        if given.json:
            given.json.write_text(json.dumps({"schema": 1, "parts": found}, indent=1) + "\n")
        if name == "build" and "failed" in found[name]:
            break
    return found


def _part(name: str, folder: Path, given: argparse.Namespace, limit_s: float) -> dict[str, Any]:
    result, log = folder / f"{name}.json", folder / f"{name}.log"
    command = [sys.executable, "-m", "bench.gpu.part", name, str(folder), str(result), f"--layers={given.layers}"]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if given.tiny:
        command.append("--tiny")
    if given.device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=CHECKOUT, env=env, stdout=output, stderr=output, start_new_session=True)
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return {"failed": f"it took longer than {limit_s:.0f} s", "last_words": _last(log)}
        finally:
            _end(process)
    if code != 0:
        return {"failed": f"it ended with {code}", "last_words": _last(log)}
    content: dict[str, Any] = json.loads(result.read_text())
    return content


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a part and all that it started, which is in its session or in one of its own."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last(log: Path) -> str:
    return log.read_text(errors="replace")[-LAST_WORDS:]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parts = [name for name in LIMITS_S if name != "build"]
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what to measure (default: all)")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything (default: 9)")
    parser.add_argument("--layers", type=int, default=24, help="of the language model (default: 24; 36 make 3.8 B)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to see that everything runs")
    parser.add_argument("--folder", type=Path, help="for the model and checkpoints, 45 GB (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="file for the results, written after every part")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every part and return 1 if one failed."""
    given = _arguments(arguments)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(SIGNAL_BASE + number))  # ends what it has started
    with tempfile.TemporaryDirectory(prefix="gpu-", dir=given.folder) as place:
        print(f"{place}: {shutil.disk_usage(place).free / GB:.0f} GB free", flush=True)
        found = measure(Path(place), given)
    return 1 if any("failed" in result for result in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
