"""The Slurm executor: hands the run's script to ``sbatch``, and its supervisor to submitit.

submitit's ``SlurmExecutor`` with its folder, its pickled callable and its result file. Ours are the
script (the one that ``render`` prints), the safe submission, and a watcher that knows heterogeneous
jobs and needs no accounting database. submitit's requeueing and its signal handlers stay unused: the
supervisor hears its own signals, and the next attempt is a job of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.core import utils
from submitit.slurm.slurm import SlurmExecutor, SlurmInfoWatcher, SlurmJob

from orchestrator import control, ledger, render, sbatch, submission_environment
from orchestrator.errors import OrchestratorError, SchedulerUnavailable
from orchestrator.executors import slurm_commands, slurm_submission
from orchestrator.executors.slurm_commands import AnswerLost
from orchestrator.files import private_folder, write_text
from orchestrator.plan import Plan
from orchestrator.run_directory import RunDirectory

PICKLE = "supervise.pkl"
"""What every job of the run calls. Written before the job is queued, so that no job waits for it."""
FORGOTTEN = "FORGOTTEN"
HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""What the supervisor listens to; it unblocks them when it does."""


def start(run: RunDirectory, plan: Plan) -> dict[str, Any]:
    """Queue the run's next attempt and return what ``run.json`` now says.

    Raises:
        ConflictError: The run has a supervisor, or a job in Slurm; names it.
        SchedulerUnavailable: Slurm does not answer. Nothing was queued, unless the message says otherwise.
        InputError: Slurm refused the job; nothing was queued.
    """
    with slurm_submission.locked(run) as lock:
        slurm_submission.refuse_second(run)
        control.cancel_file(run).unlink(missing_ok=True)  # It was meant for an attempt that is over.
        submission_environment.write(run)
        record = slurm_submission.begin(run, ledger.newest_generation(run.ledger) + 1)
        try:
            job_id = _submit(run, plan, lock=lock)
        except AnswerLost as error:
            way_out = f"The job may be queued: `python -m orchestrator status {run.name}` finds out."
            raise SchedulerUnavailable(f"{error} {way_out}") from None
        except OrchestratorError:
            slurm_submission.withdraw(run)
            raise
        return slurm_submission.complete(run, record, job_id)


def queue_successor(
    run: RunDirectory,
    plan: Plan,
    *,
    attempt: int,  # noqa: ARG001
    after: str,
    exclude: Sequence[str] = (),
) -> str:
    """Queue the attempt that takes over if job ``after`` ends otherwise than well, and return its job id.

    Args:
        run: The run.
        plan: Its plan.
        attempt: The number of that attempt. It finds its number itself, since others may come before it.
        after: The job to wait for.
        exclude: Nodes that it must not get.
    """
    options = [
        f"--dependency=afternotok:{after}",
        # A run that has succeeded leaves no job behind that waits for ever.
        "--kill-on-invalid-dep=yes",
        *([f"--exclude={','.join(exclude)}"] if exclude else []),
    ]
    return _submit(run, plan, options)


def queue_service(run: RunDirectory, plan: Plan, *, group: int) -> str:
    """Queue the job of one group of services of a pair, and return its id.

    Its comment is another than the trainer's, so it is never taken for an attempt of the run.
    """
    return _submit(run, plan, group=group)


def process(run: RunDirectory) -> int:
    """Call, as submitit does, what this job was queued for, and return what it returned.

    This is the job's side: the supervisor's program calls it when it is given ``--submitit``. Signals
    wait until the supervisor listens, so that none is lost and none reaches submitit's handlers.
    """
    from submitit.core.submission import process_job

    job_id = os.environ["SLURM_JOB_ID"]
    slurm_submission.record_own_id(run, job_id)
    os.environ["SUBMITIT_EXECUTOR"] = "slurm"
    paths = utils.JobPaths(_folder(run), job_id=job_id, task_id=0)
    _link(paths.submitted_pickle, PICKLE)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    try:
        process_job(_folder(run))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return int(utils.pickle_load(paths.result_pickle)[1])


class Watcher(SlurmInfoWatcher):
    """Asks the controller, which every site has, in place of the accounting database."""

    def update(self) -> None:
        """Ask for every job that is not known to have ended, once each."""
        for job_id in sorted(self._registered - self._finished):
            self._num_calls += 1
            try:
                job = slurm_commands.show(job_id)
            except SchedulerUnavailable:
                continue  # What was known before stands; the next call asks again.
            # A job that was queued and is not known any more ended longer ago than the controller remembers.
            state, nodes = (job.state, job.node_list) if job is not None else (FORGOTTEN, "")
            self._info_dict[job_id] = {"JobID": job_id, "State": state, "NodeList": nodes}
            if self.is_done(job_id, mode="cache"):
                self._finished.add(job_id)


class Job(SlurmJob[int]):
    """A job of a run; its result is the supervisor's exit code."""

    watcher = Watcher(delay_s=60)


class Executor(SlurmExecutor):
    """Submits the script that lies in the run directory."""

    job_class = Job

    def __init__(
        self,
        run: RunDirectory,
        plan: Plan,
        options: Sequence[str] = (),
        *,
        group: int = 0,
        lock: int | None = None,
    ) -> None:
        """Prepare submissions of one run.

        Args:
            run: The run.
            plan: Its plan.
            group: In a pair, whose job; else 0.
            options: Options of ``sbatch`` besides those in the script.
            lock: Descriptor of the submission lock, which ``sbatch`` then holds as well.
        """
        super().__init__(private_folder(_folder(run)))
        self._run = run
        self._script = run.path / render.file_name(plan, group)
        self._comment = slurm_submission.comment(run) + (f":{plan.groups[group].name}" if group else "")
        self._options = tuple(options)
        self._lock = () if lock is None else (lock,)

    @classmethod
    def affinity(cls) -> int:
        """Return 2 where jobs can be queued; that takes no ``srun``."""
        return -1 if shutil.which("sbatch") is None else 2

    def _internal_process_submissions(self, delayed_submissions: list[utils.DelayedSubmission]) -> list[Any]:
        (delayed,) = delayed_submissions
        delayed.set_timeout(0, 0)
        draft = self.folder / f".{PICKLE}.{os.getpid()}"
        delayed.dump(draft)
        draft.chmod(0o600)
        draft.replace(self.folder / PICKLE)
        return [self._submit_command(self._submitit_command_str)]

    def _submit_command(self, command: str) -> Job:
        text = self._make_submission_file_text(command, "")
        _program, *options, script = self._make_submission_command(self._script)
        job_id = slurm_commands.submit(Path(script), ["--submitit"], options, pass_fds=self._lock)
        job = Job(folder=self.folder, job_id=job_id)
        write_text(job.paths.submission_file, text)
        _link(job.paths.submitted_pickle, PICKLE)
        _link(job.paths.stdout, f"../{log_name(job_id)}")
        return job

    def _make_submission_file_text(self, command: str, uid: str) -> str:  # noqa: ARG002
        return self._script.read_text(encoding="utf-8")

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return [
            "sbatch",
            # All of an environment that holds nothing but paths: see slurm_commands. NIL would be the word for
            # it, but before 23.02 it makes every node run the user's login files first, which takes a second.
            "--export=ALL",
            f"--comment={self._comment}",
            *sbatch.arguments(self._run.path),
            *self._options,
            str(submission_file_path),
        ]

    @staticmethod
    def _get_job_id_from_submission_command(string: bytes | str) -> str:
        return slurm_commands.parse_job_id(string.decode() if isinstance(string, bytes) else string)

    def _num_tasks(self) -> int:
        return 1


def log_name(job_id: str) -> str:
    """Return where in the run's folder a job's output goes until its supervisor has a log of its own."""
    return f"slurm-{job_id}.out"


def _submit(
    run: RunDirectory, plan: Plan, options: Sequence[str] = (), *, group: int = 0, lock: int | None = None
) -> str:
    from orchestrator.allocation.supervisor import supervise

    if Executor.affinity() < 0:
        raise SchedulerUnavailable(
            "sbatch: there is no such program on the PATH. Submit on a machine of the cluster, "
            "or load its Slurm module first."
        )
    return str(Executor(run, plan, options, group=group, lock=lock).submit(supervise, str(run.path)).job_id)


def _folder(run: RunDirectory) -> Path:
    return run.path / "submitit"


def _link(name: Path, target: str) -> None:
    """Give a file its name in submitit's folder; the submitting process and the job both do, either may die."""
    try:
        name.symlink_to(target)
    except FileExistsError:
        return
