"""What a training run leaves to be read: metrics.jsonl, TensorBoard, rollouts.jsonl and images/; W&B if asked."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobs.data import Example
from jobs.grpo.batch import Valued
from jobs.grpo.tracking import Wandb
from orchestrator.files import PRIVATE_FILE, private_folder
from orchestrator.run_directory import RunDirectory


class Records:
    """Appends one step at a time; opened at the position of the checkpoint that is resumed from.

    Lines of steps that a resume undoes are cut off, so the files tell one history: the one that led
    to the checkpoints. TensorBoard is told to purge the same steps.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        step: int,
        metrics_bytes: int,
        rollouts_bytes: int,
        log_rollouts: bool,
        wandb: Wandb | None = None,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter  # with torch, seconds, which pass while Ray starts

        self._run = run
        self._log_rollouts = log_rollouts
        self._saved_images: set[str] = set()
        self._wandb = wandb
        for path, size in ((run.metrics, metrics_bytes), (run.rollouts, rollouts_bytes)):
            path.touch(mode=PRIVATE_FILE)
            os.truncate(path, min(size, path.stat().st_size))
        self._tensorboard = SummaryWriter(str(run.tensorboard), purge_step=step + 1)

    def write(self, step: int, metrics: dict[str, float], groups: Iterable[Valued]) -> None:
        """Add one step. Metrics that are not finite are left out, since JSON has no NaN."""
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        if self._log_rollouts:
            _append(self._run.rollouts, (line for group in groups for line in self._rollouts(step, group)))
        _append(self._run.metrics, [{"step": step, "time": round(time.time(), 3)} | finite])
        for name, value in finite.items():
            self._tensorboard.add_scalar(name, value, step)
        self._tensorboard.flush()
        if self._wandb is not None:
            self._wandb.log(step, finite)

    def positions(self) -> dict[str, int]:
        """Return how long both files are, for a checkpoint's state."""
        return {
            "metrics_bytes": self._run.metrics.stat().st_size,
            "rollouts_bytes": self._run.rollouts.stat().st_size,
        }

    def close(self) -> None:
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.close()

    def _rollouts(self, step: int, valued: Valued) -> Iterable[dict[str, Any]]:
        group = valued.group
        images = self._images(group.example)
        for scored, total, advantage in zip(group.scored, valued.totals, valued.advantages, strict=True):
            score, sample = scored.score, scored.sample
            yield {
                "step": step,
                "id": group.example.id,
                "sample": sample.sample,
                "prompt": group.prompt,
                "images": images,
                "answer": group.example.answer,
                "visual_key_info": group.example.visual_key_info,
                "kind": group.example.kind,
                "target": None if group.example.target is None else group.example.target.to_json(),
                "response": sample.text,
                "tokens": len(sample.tokens),
                "finish": "stop" if sample.finished else "length",
                "rewards": {name: _number(value) for name, value in score.parts.items()},
                "total": _number(total),
                "advantage": advantage,
                "judge": None if score.judge is None else _judge(score.judge),
            }

    def _images(self, example: Example) -> list[str]:
        return [self._image(image) for image in example.images]

    def _image(self, image: bytes) -> str:
        name = f"images/{hashlib.sha256(image).hexdigest()[:16]}.{_kind(image)}"
        path = self._run.path / name
        if name not in self._saved_images and not path.exists():
            beside = private_folder(path.parent) / f".{path.name}.tmp"
            beside.write_bytes(image)
            beside.replace(path)
        self._saved_images.add(name)
        return name


def _append(path: Path, records: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _judge(verdict: Any) -> dict[str, Any]:
    return {
        "reply": verdict.reply,
        "latency_s": verdict.latency_s,
        "cached": verdict.cached,
        "attempts": verdict.attempts,
        "missing": verdict.missing,
    }


def _kind(image: bytes) -> str:
    return "png" if image.startswith(b"\x89PNG") else "jpg" if image.startswith(b"\xff\xd8") else "img"
