"""The local executor: runs a plan's supervisor on this machine, detached from the terminal.

submitit's ``LocalExecutor``, with its folder, its pickled callable and its result file, but
without its controller process: that one stops a job after a timeout of its own, turns Ctrl-C in
the terminal into SIGKILL a second later, and takes the first signal for itself. Our supervisor
keeps its own clock and hears its own signals.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any, cast

from orchestrator import control, ledger, processes
from orchestrator.errors import ConflictError
from orchestrator.files import private_folder, write_json
from orchestrator.plan import Plan
from orchestrator.run_directory import RunDirectory

if TYPE_CHECKING:
    from submitit.local.local import LocalJob


def start(run: RunDirectory, plan: Plan) -> dict[str, Any]:
    """Start the run's next attempt in the background and return what ``run.json`` now says.

    The supervisor is in a session of its own: it outlives the terminal and this process.

    Raises:
        ConflictError: A supervisor of this run lives; names its pid.
    """
    living = control.live_process(run)
    if living is not None:
        pid, host = living
        raise ConflictError(
            f"run: {run.name} is running already (pid {pid} on {host}). "
            f"Watch it with `status {run.name}`, or end it with `cancel {run.name}`."
        )
    attempt = ledger.newest_generation(run.ledger) + 1
    control.cancel_file(run).unlink(missing_ok=True)  # It was meant for an attempt that is over.
    before = os.umask(0o077)  # submitit writes its files with the modes of its time.
    try:
        job, pid = _submit(run, plan, attempt)
    finally:
        os.umask(before)
    process = processes.find(pid)
    record = {
        "executor": "local",
        "job_id": job.job_id,
        "pid": pid,
        "start_time": process.start if process else None,
        "host": socket.gethostname(),
        "submitted_at": time.time(),
        "attempt": attempt,
    }
    write_json(run.run, record)
    return record


def _submit(run: RunDirectory, plan: Plan, attempt: int) -> tuple[LocalJob[Any], int]:
    """Hand the supervisor to submitit, which is imported here because it takes 160 ms; return job and pid."""
    from submitit.local.local import LocalExecutor, LocalJob

    from orchestrator.allocation.launch import CHECKOUT
    from orchestrator.allocation.supervisor import supervise

    class Detached(LocalExecutor):
        """Starts the pickled callable itself instead of a controller that would start it."""

        pid = 0

        def _submit_command(self, command: str) -> LocalJob[Any]:
            job: LocalJob[Any] = LocalJob(folder=self.folder, job_id=str(attempt), tasks=[0])
            with open(job.paths.stdout, "ab", opener=_private) as output:
                process = subprocess.Popen(
                    shlex.split(command),
                    cwd=CHECKOUT,
                    env=_environment(plan, str(attempt)),
                    umask=0o077,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.pid = process.pid
            # It is to outlive this process, which a Popen without an exit code would complain about.
            process.returncode = 0
            return job

    executor = Detached(private_folder(run.path / "submitit"))
    executor.update_parameters(name=plan.name)
    return cast("LocalJob[Any]", executor.submit(supervise, str(run.path))), executor.pid


def _environment(plan: Plan, job_id: str) -> dict[str, str]:
    """Return the site's environment and what submitit's side of the job asks for; the rest is inherited."""
    site: dict[str, str] = plan.profile.get("environment", {})
    submitit = {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": job_id,
        "SUBMITIT_LOCAL_NTASKS": "1",
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_LOCAL_NODEID": "0",
        "SUBMITIT_LOCAL_GLOBALID": "0",
        "SUBMITIT_LOCAL_LOCALID": "0",
    }
    return dict(os.environ) | {"PYTHONUNBUFFERED": "1"} | site | submitit


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
