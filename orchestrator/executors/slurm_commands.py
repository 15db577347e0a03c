"""Slurm's own programs, run for the control plane: one call, at most one request to the controller.

Every call has a timeout. Slurm that does not answer raises ``SchedulerUnavailable``; a request that it
refuses raises ``InputError``; both with Slurm's own words. Programs run in an environment reduced to
what they need to find their cluster: users' ``SLURM_*`` and ``SBATCH_*`` variables change what they print
and do, and those of an allocation would be handed on to the next job.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from orchestrator.errors import InputError, SchedulerUnavailable

QUERY_TIMEOUT_S = 30.0
SUBMIT_TIMEOUT_S = 60.0
"""Slurm's programs themselves try for about 10 s to reach a controller that is down."""
PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SLURM_CONF")
OVER = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
    }
)
"""States in which a job neither runs nor waits."""

_SILENT = re.compile(
    r"unable to contact|connection (refused|failure)|connect failure|timed out|communication|not responding"
    r"|standby mode|zero bytes|temporarily unavailable|try again|rate limit|job submit limit|slurm_persist|munge"
    r"|unable to establish|no route to host|configuration source",
    re.IGNORECASE,
)
_NOT_REACHED = re.compile(
    r"unable to contact|connection refused|connect failure|no such program|configuration source|job submit limit"
)
_UNKNOWN_JOB = re.compile(r"invalid job id", re.IGNORECASE)
_GONE = re.compile(r"invalid job id|already completing or completed|already finished", re.IGNORECASE)
_FIELD = re.compile(r"(?:^|\s)([A-Za-z][A-Za-z:/_-]*)=")
_TO_END_OF_LINE = ("JobName", "Comment", "AdminComment", "SystemComment", "Command", "WorkDir", "StdErr", "StdIn")
"""Fields with text of the user's own in them, each the last of its line."""
_QUEUE_FORMAT = "%i|%T|%V|%S|%N|%E|%r|%k"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as the controller knows it; of a heterogeneous job, all components in one.

    Attributes:
        id: The leader's number, under which Slurm takes orders for all components.
        state: ``PENDING``, ``RUNNING``, ``COMPLETED`` and so on. RUNNING if any component runs.
        reason: Slurm's code for why it waits or how it ended: ``Resources``; empty if there is none.
        node_list: Nodes of all components, compressed as Slurm writes them: ``n[1-3],n5``; empty while it waits.
        submit_at: Unix time, seconds.
        start_at: Unix time of the start, or of the start that Slurm expects; None if it says nothing.
        end_at: Unix time of the end, or of the end of its time limit; None if that is not known.
        preempt_at: Unix time at which it was told to make room; None if it was not.
        exit_code: None as long as it has not ended.
        signal: The signal that ended it; None if none did.
        restarts: How often Slurm has started it again.
        dependency: What it waits for: ``afternotok:12(unfulfilled)``; empty for nothing.
        comment: What ``sbatch --comment`` said.
        components: All components in order, the leader's first; empty for a plain job.
    """

    id: str
    state: str
    reason: str = ""
    node_list: str = ""
    submit_at: float | None = None
    start_at: float | None = None
    end_at: float | None = None
    preempt_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    restarts: int = 0
    dependency: str = ""
    comment: str = ""
    components: tuple[Job, ...] = ()

    @property
    def over(self) -> bool:
        """Whether it has ended for good."""
        return self.state in OVER


class AnswerLost(SchedulerUnavailable):
    """``sbatch`` was sent and its answer did not come back: the job may be queued, or not."""


def hostnames(nodelist: str) -> tuple[str, ...]:
    """Return the names in a compressed list of nodes, in its order. The controller is not asked.

    >>> hostnames("")
    ()
    """
    if not nodelist:
        return ()
    return tuple(_run(["scontrol", "show", "hostnames", nodelist]).split())


def show(job_id: str) -> Job | None:
    """Return a job, or None if Slurm does not know it: it never existed, or ended some minutes ago."""
    # --local: without it scontrol first asks which federation the cluster is in.
    done = _call(["scontrol", "--local", "show", "job", job_id], times_as_seconds=True)
    if done.returncode != 0 and _UNKNOWN_JOB.search(done.stderr):
        return None
    _raise_if_failed(done)
    return fold([job for _, job in _shown(done.stdout)])


def by_comment(comment: str) -> list[Job]:
    """Return one's own jobs of that comment that wait or run, oldest first."""
    listed = _run(["squeue", "--me", "--noheader", f"--format={_QUEUE_FORMAT}"], times_as_seconds=True)
    leaders: dict[str, list[Job]] = {}
    for line in listed.splitlines():
        job = _queued(line)
        if job.comment == comment:
            leaders.setdefault(job.id.partition("+")[0], []).append(job)
    folded = (fold(components) for _, components in sorted(leaders.items(), key=lambda item: int(item[0])))
    return [job for job in folded if job is not None]


def submit(script: Path, arguments: Sequence[str], options: Sequence[str], *, pass_fds: Sequence[int] = ()) -> str:
    """Submit a batch script and return the job's id, the leader's of a heterogeneous one.

    Args:
        script: The batch script.
        arguments: What the script gets.
        options: Further options of ``sbatch``; they go before those written in the script.
        pass_fds: Open files that ``sbatch`` keeps open for as long as it runs.

    Raises:
        SchedulerUnavailable: Slurm could not be asked; nothing was queued.
        AnswerLost: Nobody knows whether the job was queued.
        InputError: Slurm refused the job.
    """
    command = ["sbatch", "--parsable", *options, str(script), *arguments]
    try:
        return parse_job_id(_run(command, timeout_s=SUBMIT_TIMEOUT_S, pass_fds=pass_fds))
    except SchedulerUnavailable as error:
        if _NOT_REACHED.search(str(error)):
            raise
        raise AnswerLost(str(error)) from None


def parse_job_id(output: str) -> str:
    """Return the id in what ``sbatch --parsable`` printed.

    >>> parse_job_id("123\\n"), parse_job_id("123;alpha")
    ('123', '123')
    """
    # A site's plugin may print sentences of its own first.
    found = re.fullmatch(r"(\d+)(;\S+)?", (output.strip().splitlines() or [""])[-1].strip())
    if found is None:
        raise SchedulerUnavailable(f"sbatch: printed no job id but {output.strip()!r}. See squeue --me.")
    return found.group(1)


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs by their leaders' ids, with all their components; one that has ended already is no error."""
    if not job_ids:
        return
    done = _call(["scancel", *job_ids])
    complaints = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode != 0 and not (complaints and all(_GONE.search(line) for line in complaints)):
        _raise_if_failed(done)


def exclude(job_id: str, nodes: Sequence[str]) -> None:
    """Have a waiting job start on other nodes than these."""
    _run(["scontrol", "update", f"JobId={job_id}", f"ExcNodeList={','.join(nodes)}"])


def delay(job_id: str, by_s: float) -> None:
    """Keep a waiting job from starting for so many seconds from now."""
    _run(["scontrol", "update", f"JobId={job_id}", f"StartTime=now+{int(by_s)}"])


def configuration() -> dict[str, str]:
    """Return the cluster's configuration: ``{"PreemptMode": "REQUEUE", ...}``, unset values as ``"(null)"``."""
    return _settings(_run(["scontrol", "show", "config"]))


def partitions() -> dict[str, dict[str, str]]:
    """Return every partition by its name."""
    found = {}
    for record in _records(_run(["scontrol", "show", "partition"])):
        fields = _fields(record)
        found[fields["PartitionName"]] = fields
    return found


def would_start(script: Path, options: Sequence[str]) -> str:
    """Return when and where Slurm would start a script, in its own words, without queueing it.

    Raises:
        InputError: Slurm would refuse it.
    """
    done = _call(["sbatch", "--test-only", *options, str(script)], timeout_s=SUBMIT_TIMEOUT_S)
    _raise_if_failed(done)
    return (done.stderr or done.stdout).replace("sbatch:", "").strip()


def clean_environment() -> dict[str, str]:
    """Return what Slurm's programs need of this process's environment, and nothing else."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def fold(components: Sequence[Job]) -> Job | None:
    """Return the components of one job as one job; None for none.

    It runs as long as any of them runs and is over when all are: after the loss of a node Slurm may
    know one component as waiting and another as running.
    """
    if len(components) < 2:
        return components[0] if components else None
    leader = components[0]
    states = [component.state for component in components]
    active = [state for state in states if state not in OVER]
    state = next((s for s in ("RUNNING", "COMPLETING") if s in active), active[0] if active else leader.state)
    return replace(
        leader,
        id=leader.id.partition("+")[0],
        state=state,
        reason=next((c.reason for c in components if c.reason), ""),
        node_list=",".join(c.node_list for c in components if c.node_list),
        preempt_at=next((c.preempt_at for c in components if c.preempt_at is not None), None),
        components=tuple(components),
    )


def _shown(text: str) -> Iterator[tuple[int, Job]]:
    """Return the jobs in an answer of ``scontrol show job`` with their places among the components."""
    found = [(int(fields.get("HetJobOffset", 0)), _job(fields)) for fields in map(_fields, _records(text))]
    yield from sorted(found, key=lambda pair: pair[0])


def _job(fields: Mapping[str, str]) -> Job:
    over = fields["JobState"] in OVER
    code, _, number = fields.get("ExitCode", "0:0").partition(":")
    return Job(
        id=fields.get("HetJobId", fields["JobId"]),
        state=fields["JobState"],
        reason=_known(fields.get("Reason", "")),
        node_list=_known(fields.get("NodeList", "")),
        submit_at=_time(fields.get("SubmitTime", "")),
        start_at=_time(fields.get("StartTime", "")),
        end_at=_time(fields.get("EndTime", "")),
        preempt_at=_time(fields.get("PreemptTime", "")),
        exit_code=int(code) if over else None,
        signal=int(number) if over and number not in ("", "0") else None,
        restarts=int(fields.get("Restarts", 0)),
        dependency=_known(fields.get("Dependency", "")),
        comment=_known(fields.get("Comment", "")),
    )


def _queued(line: str) -> Job:
    number, state, submitted, starts, nodes, dependency, reason, comment = line.split("|", 7)
    return Job(
        id=number.strip(),
        state=state,
        reason=_known(reason),
        node_list=_known(nodes),
        submit_at=_time(submitted),
        start_at=_time(starts),
        dependency=_known(dependency),
        comment=_known(comment),
    )


def _records(text: str) -> list[list[str]]:
    """Return the records of an answer of ``scontrol show``, each as its lines."""
    blocks = re.split(r"\n\s*\n", text.strip())
    return [block.splitlines() for block in blocks if block.strip()]


def _fields(lines: Sequence[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        found = list(_FIELD.finditer(line))
        for index, match in enumerate(found):
            name = match.group(1)
            if name in _TO_END_OF_LINE:
                fields[name] = line[match.end() :].strip()
                break
            end = found[index + 1].start() if index + 1 < len(found) else len(line)
            fields[name] = line[match.end() : end].strip()
    return fields


def _settings(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _known(value: str) -> str:
    return "" if value in ("(null)", "None", "N/A", "n/a") else value


def _time(text: str) -> float | None:
    """Return a time as Unix seconds, whether Slurm wrote it as such or in local time."""
    if text in ("", "Unknown", "None", "N/A", "n/a", "NONE", "0"):
        return None
    return float(text) if text.isdigit() else datetime.fromisoformat(text).timestamp()


def _run(
    command: list[str],
    *,
    timeout_s: float = QUERY_TIMEOUT_S,
    times_as_seconds: bool = False,
    pass_fds: Sequence[int] = (),
) -> str:
    done = _call(command, timeout_s=timeout_s, times_as_seconds=times_as_seconds, pass_fds=pass_fds)
    _raise_if_failed(done)
    return done.stdout


def _call(
    command: list[str],
    *,
    timeout_s: float = QUERY_TIMEOUT_S,
    times_as_seconds: bool = False,
    pass_fds: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    # Seconds mean the same on every machine; local times do not, and twice a year they are ambiguous.
    times = {"SLURM_TIME_FORMAT": "%s"} if times_as_seconds else {}
    try:
        return subprocess.run(
            command,
            env=clean_environment() | times,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            pass_fds=tuple(pass_fds),
        )
    except FileNotFoundError:
        raise SchedulerUnavailable(
            f"{command[0]}: there is no such program on the PATH. Run this on a machine of the cluster, "
            "or load its Slurm module first."
        ) from None
    except subprocess.TimeoutExpired:
        raise SchedulerUnavailable(
            f"{command[0]}: Slurm has not answered within {timeout_s:g} s. Try again later; `sdiag` shows its load."
        ) from None


def _raise_if_failed(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode == 0:
        return
    program = done.args[0]
    said = " ".join((done.stderr.strip() or done.stdout.strip() or "no word").split())
    if done.returncode < 0 or _SILENT.search(said):
        raise SchedulerUnavailable(f"{program}: Slurm does not answer: {said}. Try again later.")
    raise InputError(f"{program}: Slurm refused: {said} (exit code {done.returncode}).")
