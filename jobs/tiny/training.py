"""Runs fine-tunings side by side, each as its own process: ``python -m jobs.sft``, a job like any other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jobs.entry import Drain
from jobs.tiny.settings import Settings, WarmStart
from orchestrator import progress
from orchestrator.errors import RunFailed
from orchestrator.files import write_text

POLL_S = 0.5
STOP_S = 20.0
LOG_TAIL = 20
CHAT_WORDS = "system user assistant\nYou are a helpful assistant.\n"
"""What every prompt holds, for the tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One fine-tuning.

    Attributes:
        name: ``"policy"`` or ``"judge"``.
        settings: Of ``jobs.sft``.
        out: Its ``--out`` folder; the model will be in ``out/model``.
    """

    name: str
    settings: dict[str, Any]
    out: Path

    @property
    def log(self) -> Path:
        return self.out / "sft.log"


def warm_start(
    name: str, start: WarmStart, model: Path, path: Path, settings: Settings, work: Path, format_prompt: str
) -> Training:
    """Return the fine-tuning of one tiny model.

    Args:
        name: Of the model.
        start: How it is trained.
        model: The untrained model's folder.
        path: The examples.
        settings: Of the whole build.
        work: The folder that gets a folder for it.
        format_prompt: What follows every problem.
    """
    given = {
        "model": str(model),
        "path": str(path),
        "format_prompt": format_prompt,
        "steps": start.steps,
        "batch": start.batch,
        "micro_batch": start.batch,
        "learning_rate": start.learning_rate,
        "warmup_steps": start.warmup_steps,
        "weight_decay": 0.01,
        "beta2": 0.95,
        "prompt_weight": start.prompt_weight,
        "seed": settings.seed,
    }
    return Training(name=name, settings=given, out=work / name)


def run(trainings: Sequence[Training], bar: progress.Progress, drain: Drain, timeout_s: float) -> bool:
    """Run all trainings at once, showing their common progress; return False if drained.

    Raises:
        RunFailed: One failed or all together took too long. The others are stopped first.
    """
    processes = {training.name: _start(training) for training in trainings}
    deadline = time.monotonic() + timeout_s
    try:
        while any(process.poll() is None for process in processes.values()):
            if drain.requested:
                return False
            _report(trainings, bar)
            _check(trainings, processes)
            if time.monotonic() > deadline:
                raise RunFailed(f"tiny: The models were not trained within {timeout_s:g} s. Raise timeout_s.")
            time.sleep(POLL_S)
        _check(trainings, processes)
        _report(trainings, bar)
        return True
    finally:
        for process in processes.values():
            _stop(process)


def _start(training: Training) -> subprocess.Popen[bytes]:
    training.out.mkdir(parents=True, exist_ok=True)
    file = training.out / "sft.yaml"
    write_text(file, yaml.safe_dump(training.settings))
    with training.log.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.sft", "--settings", str(file), "--out", str(training.out)],
            stdout=log,
            stderr=subprocess.STDOUT,
            # They share the cores: threads that wait for each other are slower than one.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def _check(trainings: Sequence[Training], processes: dict[str, subprocess.Popen[bytes]]) -> None:
    for training in trainings:
        code = processes[training.name].poll()
        if code not in (None, 0):
            tail = training.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:]
            raise RunFailed("\n".join([f"tiny: Training the {training.name} ended with exit code {code}.", *tail]))


def _report(trainings: Sequence[Training], bar: progress.Progress) -> None:
    done, total, messages = 0.0, 0.0, []
    for training in trainings:
        total += training.settings["steps"]
        for snapshot in progress.read(training.out / "progress"):
            if snapshot.phase == "fine-tuning":
                done += snapshot.done
            elif snapshot.phase == "done":
                done += training.settings["steps"]
            messages.append(f"{training.name} {snapshot.message or snapshot.phase}")
    bar.update(
        f"training {' and '.join(t.name for t in trainings)}", done, total, unit="steps", message=", ".join(messages)
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
