"""Starts our trainer on the same work: ``python -m jobs.grpo``, as by hand, and reads its metrics.jsonl."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from bench.grpo.peer import CHECKOUT, TIMEOUT_S, environment
from bench.grpo.work import FORMAT_PROMPT, SEED, Work
from bench.trl.reward import JUDGE
from jobs.grpo.settings import Settings

POLL_S = 0.02
NO_CHECKPOINT = 10_000
GIVEN, JUDGED = "bench.trl.reward:given", "bench.trl.reward:judged"

Line = dict[str, float]


def settings(work: Work, steps: int, *, judged: bool = False, **changes: dict[str, Any] | Any) -> dict[str, Any]:
    """Return what ours is told: the same work as ``Work.problem``, and ``changes``, section by section."""
    size = work.size
    values: dict[str, Any] = {
        "model": str(work.model),
        "seed": SEED,
        "data": {"path": str(work.data)},
        "format_prompt": FORMAT_PROMPT,
        "rewards": {JUDGED if judged else GIVEN: 1.0},
        "steps": steps,
        "prompts_per_step": size.prompts,
        "samples_per_prompt": size.samples,
        "engine": {"max_new_tokens": size.tokens, "batch": size.prompts * size.samples},
        "policy": {"learning_rate": 1e-6, "micro_batch": size.micro_batch},
        "checkpoint": {"every_steps": NO_CHECKPOINT},
        "ray": False,
        "log_rollouts": False,
    }
    for name, change in changes.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, dict) else change
    Settings.model_validate(values)
    return values


class Run:
    """One run of ours in a folder."""

    def __init__(self, folder: Path, values: dict[str, Any], *, judge: str | None = None) -> None:
        self.folder = folder
        self._judge = judge
        self._settings = folder.with_suffix(".yaml")
        self._settings.write_text(yaml.safe_dump(values), encoding="utf-8")

    def train(self, timeout_s: float = TIMEOUT_S) -> list[Line]:
        """Train to the end and return the metrics of every step.

        Raises:
            RuntimeError: It failed; the message ends with what it wrote last.
        """
        process = self._start()
        try:
            code = process.wait(timeout_s)
        finally:
            self._kill(process)
        if code != 0:
            raise self._failed(code)
        return self.lines()

    def train_until_killed(self, step: int, timeout_s: float = TIMEOUT_S) -> None:
        """Train until the line of ``step`` is written, and kill it there and then.

        Raises:
            RuntimeError: It ended by itself before that.
        """
        process, until = self._start(), time.monotonic() + timeout_s
        try:
            while len(self.lines()) < step:
                if process.poll() is not None or time.monotonic() > until:
                    raise self._failed(process.returncode)
                time.sleep(POLL_S)
        finally:
            self._kill(process)

    def lines(self) -> list[Line]:
        """Return the whole lines of metrics.jsonl so far."""
        path = self.folder / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def _start(self) -> subprocess.Popen[bytes]:
        self._log = self.folder.with_suffix(".log")
        command = [sys.executable, "-m", "jobs.grpo", "--settings", str(self._settings), "--out", str(self.folder)]
        more = {} if self._judge is None else {JUDGE: self._judge}
        with self._log.open("a") as output:
            return subprocess.Popen(
                command, cwd=CHECKOUT, env=environment(**more), stdout=output, stderr=output, start_new_session=True
            )

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """End what is left of its session."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _failed(self, code: int | None) -> RuntimeError:
        return RuntimeError(f"{self._settings} failed with {code}:\n{self._log.read_text()[-3000:]}")


def fresh(work: Work, values: dict[str, Any], *, judge: str | None = None) -> Run:
    """Return a run in a folder that holds nothing of an earlier one."""
    folder = work.folder / "ours"
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".log").unlink(missing_ok=True)
    return Run(folder, values, judge=judge)


def step_s(lines: list[Line]) -> list[float]:
    """Return the seconds from step to step, as the lines were written, of all but the first step.

    So they hold everything that a step costs, what no timing names too.
    """
    return [after["time"] - before["time"] for before, after in itertools.pairwise(lines)]
