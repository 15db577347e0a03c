"""What a run waits for in Slurm, in words. One question to Slurm a call, and none for a run that need not wait."""

from __future__ import annotations

import time
from dataclasses import dataclass

from orchestrator import control
from orchestrator.control import RunState
from orchestrator.errors import SchedulerUnavailable
from orchestrator.executors import slurm_commands, slurm_submission
from orchestrator.executors.slurm_commands import Job
from orchestrator.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What Slurm says of the job that a run waits for.

    Attributes:
        says: A sentence for people.
        state: The run's state, if the answer leads to another than the run's files do: ``LOST`` if the job is
            gone, ``QUEUED`` if there is one that the files do not know of. Else empty.
    """

    says: str
    state: str = ""


def ask(run: RunDirectory) -> Answer | None:
    """Return what the run waits for, or None if it does not wait for Slurm. Asks Slurm at most once.

    An interrupted submission is settled on the way: its job is recorded, or the intent withdrawn.
    """
    try:
        return _answer(run)
    except SchedulerUnavailable as error:
        return Answer(says=f"Slurm does not say what the run waits for. {error}")


def _answer(run: RunDirectory) -> Answer | None:
    adopted, told = slurm_submission.settle(run)
    if adopted is not None:
        return Answer(says=f"{told} {sentence(adopted)}")
    if told:
        return Answer(says=told)
    now = control.state(run)
    if now.state in ("SUBMITTED", "QUEUED") and now.job:
        return _about(run, now)
    if now.state == "LOST" and now.executor == "slurm":
        unrecorded = slurm_submission.live_jobs(run)
        return Answer(says=sentence(unrecorded[-1]), state="QUEUED") if unrecorded else None
    return None


def _about(run: RunDirectory, now: RunState) -> Answer:
    job = slurm_commands.show(now.job)
    log = f"{run.path}/slurm-{now.job}.out"
    if job is None:
        return Answer(
            says=f"Slurm does not know job {now.job} any more, and it has not begun. Its output: {log}", state="LOST"
        )
    if job.over:
        how = f" with exit code {job.exit_code}" if job.exit_code else f" by signal {job.signal}" if job.signal else ""
        return Answer(
            says=f"Job {job.id} ended as {job.state}{how} ({job.reason or 'no reason given'}) before the run "
            f"could begin. Its output, if it started: {log}",
            state="LOST",
        )
    return Answer(says=sentence(job))


def sentence(job: Job) -> str:
    """Return what a job waits for and what can be done about it.

    >>> sentence(Job(id="12", state="PENDING", reason="Resources"))
    'Job 12 waits for free nodes (Resources).'
    """
    if job.state == "RUNNING":
        return f"Job {job.id} has started on {job.node_list}; its supervisor has not reported yet."
    if job.state == "CONFIGURING":
        return f"Job {job.id} has nodes ({job.node_list}), which are being made ready."
    if job.state != "PENDING":
        return f"Job {job.id} is {job.state}."
    reason = job.reason or "None"
    since = f" since {_clock(job.submit_at)}" if job.submit_at is not None else ""
    return f"Job {job.id} waits{since} {_why(job, reason)}{_expected(job, reason)}"


def _why(job: Job, reason: str) -> str:
    code = f"({reason})"
    if reason == "BeginTime":
        after = " after a requeue" if job.restarts else ""
        when = f" until {_clock(job.start_at)}" if job.start_at is not None else ""
        return f"for its begin time: Slurm holds it back{after}{when} {code}."
    if reason == "Dependency" and job.dependency:
        return f"for the end of an earlier job: {job.dependency} {code}."
    for name, words in _REASONS.items():
        if reason == name or (name.endswith("*") and reason.startswith(name[:-1])):
            return f"{words.replace('JOB', job.id)} {code}.".replace(". (", " (")
    return f"for a reason that Slurm calls {reason}. See: scontrol show job {job.id}"


def _expected(job: Job, reason: str) -> str:
    expected = job.start_at is not None and reason in ("Resources", "Priority") and job.start_at > time.time()
    return f" Slurm expects it to start at {_clock(job.start_at)}." if expected else ""


def _clock(at: float | None) -> str:
    """Return a time of day, with the date if it is not today."""
    moment = time.localtime(at)
    today = moment[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", moment)


_REASONS = {
    "None": "for the scheduler's next look at the queue",
    "Resources": "for free nodes",
    "Priority": "because other jobs go first",
    "Dependency": "for the end of an earlier job",
    "DependencyNeverSatisfied": "for an earlier job that has not ended as it should have, so it will never start; "
    "continue with `resume` after `cancel`",
    "JobHeldUser": "because it is held; let it go with: scontrol release JOB",
    "JobHeldAdmin": "because an administrator holds it; ask them",
    "JobHoldMaxRequeue": "because Slurm has requeued it too often; let it go with: scontrol release JOB",
    "launch*": "because it could not be launched and is held; see the slurmd log of its node, then: "
    "scontrol release JOB",
    "JobLaunchFailure": "because it could not be launched; see the slurmd log of its node",
    "InvalidAccount": "because its account is not valid; set slurm.account in the profile, then `cancel` and `submit`",
    "InvalidQOS": "because its QOS is not valid; set slurm.qos in the profile, then `cancel` and `submit`",
    "AccountNotAllowed": "because the partition does not admit its account; set slurm.account in the profile",
    "QOSNotAllowed": "because the partition does not admit its QOS; set slurm.qos in the profile",
    "BadConstraints": "because no node can meet its constraints; change them in the profile, then `cancel` and "
    "`submit`",
    "PartitionDown": "because its partition takes no jobs now; ask an administrator, or choose another",
    "PartitionInactive": "because its partition is not in use; choose another in the profile",
    "PartitionNodeLimit": "because it asks for more nodes than its partition gives to one job; ask for fewer",
    "PartitionTimeLimit": "because it asks for more time than its partition gives; lower time_limit in the recipe",
    "ReqNodeNotAvail*": "for nodes that are down, drained or reserved; a maintenance window is a common cause "
    "(scontrol show reservation)",
    "Nodes_required_for_job_are_DOWN*": "for nodes that are down, drained or held for other partitions (sinfo -R)",
    "NodeDown": "for a node that is down (sinfo -R)",
    "Reservation*": "for its reservation",
    "Licenses": "for a licence",
    "Cleaning": "until its earlier start has been cleaned up",
    "Prolog": "for the site's prolog on its nodes",
    "BurstBuffer*": "for its burst buffer",
    "FedJobLock": "for the federation of clusters",
    "AssocMax*": "because of a limit on one job of your account; ask for less, or for another account",
    "AssocGrp*": "because your account has used up what it may have at a time; it starts when others of it end",
    "QOSMax*": "because of a limit of its QOS on one job or user; ask for less, or wait for your other jobs",
    "QOSGrp*": "because its QOS has used up what it may have at a time; it starts when others of it end",
    "QOS*": "because of a limit of its QOS",
    "Assoc*": "because of a limit of your account",
    "Max*": "because of a limit of your account",
}
"""What Slurm's codes mean (squeue(1), "JOB REASON CODES"), in the order in which they are tried."""
