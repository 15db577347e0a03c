"""submitit's own checkpoint and requeue: a job of two tasks, the trainer and the judge.

python -m bench.peers.submitit_job submit FOLDER STEP_S      prints the job's id
python -m bench.peers.submitit_job watch FOLDER JOB SECONDS  asks Job.state every second, prints the last answer
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import submitit

from bench.peers import CHECKOUT, Peer
from bench.stand_in import alone


class Work:
    """What submitit pickles; a requeued job begins it again, and the trainer goes on where its marks end."""

    def __call__(self, folder: str, step_s: float) -> int:
        # submitit passes by SIGTERM; a task that ended on it would count as done.
        if submitit.JobEnvironment().global_rank:
            return alone.judge(Path(folder), drains=False)
        return alone.trainer(Path(folder), step_s, drains=False)

    def checkpoint(self, folder: str, step_s: float) -> submitit.helpers.DelayedSubmission:
        """Return what to do after the requeue: the same."""
        return submitit.helpers.DelayedSubmission(Work(), folder, step_s)


class Submitit(Peer):
    """``submitit.SlurmExecutor``."""

    name = "submitit"

    def submit(self) -> None:
        """Submit the job and note its id."""
        argv = [sys.executable, "-m", "bench.peers.submitit_job", "submit", str(self.folder), str(self.step_s)]
        self.job = self.sandbox.run(argv, 60, cwd=CHECKOUT, check=True).stdout.strip()


def submit(folder: Path, step_s: float) -> str:
    """Submit and return the job's id."""
    executor = submitit.SlurmExecutor(folder=folder / "submitit", max_num_timeout=100)
    executor.update_parameters(
        partition="train", nodes=2, ntasks_per_node=1, mem="2G", exclusive=True, time=60, job_name="submitit",
        setup=[f"export PYTHONPATH={CHECKOUT}"],
    )  # fmt: skip
    return str(executor.submit(Work(), str(folder), step_s).job_id)


def watch(folder: Path, job: str, seconds: float) -> str:
    """Ask for the job's state every second for a time, and return the last answer."""
    found: submitit.SlurmJob[int] = submitit.SlurmJob(folder=folder / "submitit", job_id=job)
    until = time.monotonic() + seconds
    state = str(found.state)
    while time.monotonic() < until:
        time.sleep(1)
        state = str(found.state)
    return state


def main(arguments: list[str]) -> None:
    """Submit or watch."""
    if arguments[0] == "submit":
        print(submit(Path(arguments[1]), float(arguments[2])))
    else:
        print(watch(Path(arguments[1]), arguments[2], float(arguments[3])))


if __name__ == "__main__":
    # Under its own name, so that the job can load what was pickled.
    from bench.peers import submitit_job

    submitit_job.main(sys.argv[1:])
