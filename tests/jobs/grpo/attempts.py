"""Attempts at a training run that die where they are told to: ``python -m tests.jobs.grpo.attempts``.

Reads one attempt a line (JSON), makes it in a fork of itself and answers with how that ended. Models and torch are
imported once and no thread runs beside the forking one, so an attempt costs what its steps cost. A dying attempt
kills itself with SIGKILL.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from jobs.entry import Context, Drain
from jobs.grpo import checkpoint, collector, journal, loop, workers
from jobs.grpo.settings import Settings
from orchestrator.ledger import Ledger
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory

IMPORTED = ("jobs.grpo.trainer", "jobs.grpo.policy", "jobs.grpo.engines.hf", "torch.utils.tensorboard")
BROKEN = 99


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt.

    Attributes:
        folder: Of the run.
        settings: Of the role.
        generation: Which attempt it is, from 1.
        die_in: The phase to die in, "" for none.
        die_at: Of that step.
        stop_after: Told to stop at so many looks at the wish to stop; 0 is never.
    """

    folder: str
    settings: dict[str, Any]
    generation: int
    die_in: str = ""
    die_at: int = 0
    stop_after: int = 0


class Attempts:
    """The forking process, seen from a test."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.jobs.grpo.attempts"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )

    def make(self, attempt: Attempt) -> int:
        """Make an attempt; return its exit code, or minus the signal it died by."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(attempt)) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Stop(Drain):
    """Asks to stop at some look."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    @property
    def requested(self) -> bool:
        self._looks -= 1
        return self._looks < 0

    @requested.setter
    def requested(self, _: bool) -> None: ...


def spaces(_example: Any, response: str) -> float:
    """A reward that responses of a random model differ in."""
    return response.count(" ") / 8


def context_of(folder: Path, generation: int) -> Context:
    run = RunDirectory(folder)
    run.create()
    return Context(
        run=run,
        role="train",
        generation=generation,
        plan=None,
        ledger=Ledger(run.ledger, generation),
        progress=Progress(run.progress, "train"),
    )


def main() -> None:
    for module in IMPORTED:
        importlib.import_module(module)
    for line in sys.stdin:
        attempt = Attempt(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            _train(attempt)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _train(attempt: Attempt) -> None:
    code = BROKEN
    try:
        os.dup2(2, 1)
        context = context_of(Path(attempt.folder), attempt.generation)
        settings = Settings.model_validate(attempt.settings)
        drain = Stop(attempt.stop_after) if attempt.stop_after else Drain()
        _watch(attempt, context.run.path / "asked")
        code = asyncio.run(loop.train(context, settings, drain))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def _watch(attempt: Attempt, asked: Path) -> None:
    """Die in the middle of the phase told, and note every response that is rewarded."""
    from jobs.grpo.trainer import Trainer

    at = 0
    make_step, scored, generate = Trainer._step, collector.Collector._round, workers.LocalWorkers.generate

    def reached(phase: str, step: int | None = None) -> None:
        if phase == attempt.die_in and attempt.die_at == (at if step is None else step):
            os.kill(os.getpid(), signal.SIGKILL)

    async def step_of(self: Any, state: Any, *arguments: Any) -> Any:
        nonlocal at
        at = state.step + 1
        return await make_step(self, state, *arguments)

    async def round_of(self: Any, step: int, refill: int, *arguments: Any) -> Any:
        async def score(example: Any, response: str) -> Any:
            with asked.open("a") as file:
                file.write(f"{step}\n")
            reached("reward", step)
            return await self.scorer.score(example, response)

        async def sample(requests: Any) -> Any:
            async for found in generate(self.workers, requests):
                reached("rollout", step)
                yield found

        scorer = SimpleNamespace(score=score, metrics=self.scorer.metrics)
        changed = replace(self, scorer=scorer, workers=SimpleNamespace(generate=sample))
        return await scored(changed, step, refill, *arguments)

    # A checkpoint is written while later steps are made.
    saving = 0
    commit, prune = checkpoint.commit, checkpoint.prune

    def committing(folder: Path, state: Any, *arguments: Any) -> Path:
        nonlocal saving
        saving = state.step
        reached("save", saving)
        return commit(folder, state, *arguments)

    def pruning(*arguments: Any, **keywords: Any) -> list[int]:
        reached("prune", saving)
        return prune(*arguments, **keywords)

    def before(owner: Any, name: str, phase: str) -> None:
        real = getattr(owner, name)

        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            reached(phase)
            return real(*arguments, **keywords)

        patch.object(owner, name, wrapped).start()

    patch.object(Trainer, "_step", step_of).start()
    patch.object(collector.Collector, "_round", round_of).start()
    before(journal, "append", "journal")
    before(workers.LocalWorkers, "step", "update")
    before(workers.LocalWorkers, "snapshot", "copy")
    patch.object(checkpoint, "commit", committing).start()
    patch.object(checkpoint, "prune", pruning).start()


if __name__ == "__main__":
    main()
