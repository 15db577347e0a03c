"""Metrics on their way to Weights & Biases, which is never waited for and never trusted.

    Wandb.log -> queue -> daemon thread -> pipe -> a process of its own: python -m jobs.grpo.tracking -> wandb

wandb lives in a process of its own, since in ours it would wrap ``sys.exit`` and, at our exit, wait for its network.
What goes wrong there is said once, on stderr, and training goes on; ``metrics.jsonl`` and ``tb/`` have the numbers in
any case. The API key is read from the environment by wandb itself and appears in no message.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from queue import Full, Queue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.grpo import settings

KEY = "WANDB_API_KEY"
WAITING = 1000
"""Steps that may wait to be sent before further ones are dropped."""
FINISH_S = 20.0
"""Longest time that wandb may take over what is left, at the end."""
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Signals that Slurm sends to every process of a step when the trainer is to stop; this one ends with its pipe."""
ROOT = Path(__file__).parents[2]


class Wandb:
    """Sends one step at a time to the run of the same folder, also after a resume.

    A resumed run repeats the steps since its last checkpoint; those that wandb has already it ignores, and they are the
    same numbers.
    """

    def __init__(
        self, wanted: settings.Wandb, folder: Path, *, config: Mapping[str, Any], waiting: int = WAITING
    ) -> None:
        """Begin to connect, in another process.

        Args:
            wanted: Project and mode.
            folder: The run's. Its name is the run's name, its path the run's identity; wandb's files go to ``wandb/``.
            config: What to show as the run's configuration; no secrets.
            waiting: Steps that may wait to be sent.
        """
        self._steps: Queue[str | None] = Queue(waiting)
        self._said = False
        self._process = self._started(wanted.mode)
        self._thread = threading.Thread(target=self._feed, name="wandb", daemon=True)
        if self._process is None:
            return
        folder = folder.absolute()
        options = {"project": wanted.project, "mode": wanted.mode, "id": identity(folder), "name": folder.name}
        self._steps.put_nowait(json.dumps(options | {"dir": str(folder), "config": dict(config)}, default=str))
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Leave one step to be sent. Returns at once; a step for which there is no room is dropped."""
        if not self._thread.is_alive():
            return
        try:
            self._steps.put_nowait(json.dumps([step, {name: float(value) for name, value in metrics.items()}]))
        except Full:
            self._say(f"{self._steps.maxsize} steps wait to be sent and nothing moves; further ones are dropped")

    def close(self, timeout_s: float = FINISH_S) -> None:
        """Wait until everything is sent, at most ``timeout_s`` seconds; then end the process, whatever it does."""
        if self._process is None:
            return
        deadline = time.monotonic() + timeout_s
        try:
            if self._thread.is_alive():
                self._steps.put(None, timeout=timeout_s)
            self._process.wait(max(deadline - time.monotonic(), 0))
        except (Full, subprocess.TimeoutExpired):
            self._say(f"not done {timeout_s:g} s after the last step; what is left is not sent")
            self._process.kill()
            self._process.wait()
        self._thread.join(FINISH_S)

    def _started(self, mode: str) -> subprocess.Popen[str] | None:
        if mode == "online" and not os.environ.get(KEY):
            self._say(f"{KEY} is not set. Export it before `submit`, or set wandb.mode to offline")
            return None
        command = [sys.executable, "-m", "jobs.grpo.tracking"]
        try:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT)
        except OSError as error:
            self._say(f"its process cannot be started ({error})")
            return None

    def _feed(self) -> None:
        """Be the thread: write to the process until there is nothing more to send, or nobody to send it to."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            with self._process.stdin as pipe:
                while (line := self._steps.get()) is not None:
                    pipe.write(line + "\n")
                    pipe.flush()
        except BrokenPipeError:
            return  # it has ended, and said why

    def _say(self, reason: str) -> None:
        if not self._said:
            self._said = True
            _say(reason)


def identity(folder: Path) -> str:
    """Return the run's id: the same for every attempt in this folder, another for the same name elsewhere."""
    return f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def main() -> int:
    """Be the process: read what to connect to, then one step a line, and pass them on until the pipe is closed."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    try:
        run = _connected(json.loads(sys.stdin.readline()))
        for line in sys.stdin:
            step, metrics = json.loads(line)
            run.log(metrics, step=step)
        _end_within(FINISH_S)
        run.finish()
    except Exception as error:  # noqa: BLE001 - whatever a tracker's library raises is one line in the log
        _say(f"{type(error).__name__}: {error}")
        # wandb waits for its network once more, at exit.
        _end_within(1.0)
        return 1
    return 0


def _connected(options: dict[str, Any]) -> Any:
    try:
        wandb = importlib.import_module("wandb")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}. Install it with `pip install wandb`") from None
    # It captures stdout, and uploads code and the git remote, unless told not to.
    quiet = wandb.Settings(console="off", save_code=False, disable_git=True, silent=True)
    return wandb.init(**options, resume="allow", settings=quiet)


def _end_within(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, [1])
    timer.daemon = True
    timer.start()


def _say(reason: str) -> None:
    """Say why metrics do not arrive. Messages of wandb could quote the key."""
    key = os.environ.get(KEY)
    told = " ".join((reason.replace(key, f"<{KEY}>") if key else reason).split()).rstrip(".")
    print(f"wandb: {told}. Metrics go to metrics.jsonl and tb/ only.", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
