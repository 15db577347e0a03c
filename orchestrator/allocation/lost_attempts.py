"""How an attempt ended, by what Slurm says of its job; for attempts that did not live to say it themselves.

Slurm's state is evidence, not the cause: a job that drains within the grace time of a preemption and
exits non-zero is FAILED to Slurm, and one killed before it could drain is PREEMPTED only on some versions.
"""

from __future__ import annotations

from orchestrator.allocation.history import UNKNOWN
from orchestrator.errors import OrchestratorError
from orchestrator.executors import slurm_commands
from orchestrator.executors.slurm_commands import Job

NEAR_THE_END_S = 300.0
"""A signal so shortly before the time limit is the one that announces it."""
KINDS = {
    "PREEMPTED": "preempted",
    "TIMEOUT": "time_limit",
    "DEADLINE": "time_limit",
    "NODE_FAIL": "node_failure",
    "BOOT_FAIL": "node_failure",
    "OUT_OF_MEMORY": "crash",
    "FAILED": "crash",
    "CANCELLED": "cancelled",
}


REASONS = {"NodeDown": "node_failure", "TimeLimit": "time_limit"}


def ask(job: str) -> tuple[str, str, float | None]:
    """Return the kind of end of a job whose supervisor left no word, why we think so, and its end in Unix seconds."""
    try:
        found = slurm_commands.show(job)
    except OrchestratorError as error:
        return UNKNOWN, f"Slurm could not say how job {job} ended: {error}", None
    if found is None:
        return UNKNOWN, f"Slurm has forgotten job {job}.", None
    if found.preempt_at is not None:
        return "preempted", f"Slurm preempted job {job}.", found.end_at
    kind = KINDS.get(found.state, UNKNOWN)
    why = f" ({found.reason})." if found.reason else "."
    return kind, f"Job {job} ended as {found.state}{why}", found.end_at


def kind_of_end(job: Job | None, *, ends_in_s: float) -> tuple[str, str]:
    """Return why Slurm has asked a job to stop, while it still may be running.

    Args:
        job: What Slurm says of it; None if it did not answer.
        ends_in_s: Seconds until its time limit.
    """
    if job is not None and (job.preempt_at is not None or job.state == "PREEMPTED"):
        return "preempted", "Slurm preempts the job."
    if job is not None and job.state in ("CANCELLED", "NODE_FAIL"):
        return KINDS[job.state], f"Slurm says {job.state}" + (f" ({job.reason})." if job.reason else ".")
    if job is not None and job.state == "COMPLETING":
        # Slurm hides the state in which a job is being ended; the reason tells a lost node and the time limit.
        kind = REASONS.get(job.reason, "cancelled")
        return kind, f"Slurm ends the job ({job.reason})." if job.reason else "The job was cancelled with scancel."
    if ends_in_s < NEAR_THE_END_S:
        return "time_limit", f"The time limit of the job is {max(0.0, ends_in_s):.0f} s away."
    if job is None:
        return "preempted", "Slurm did not say why; most likely a preemption."
    return "drained", f"Slurm says {job.state}: somebody sent the signal."
