"""What a site's Slurm configuration means for runs: a pure function from its settings to findings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["ok", "warning", "problem"]
Settings = Mapping[str, str]
Version = tuple[int, ...]

CRED_EXPIRE_S = 120
BACKFILL_S = 30
SHORT_GRACE_S = 60
SHORT_MEMORY_S = 60
LONG_DETECTION_S = 600


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: A few words.
        verdict: ``problem`` if runs cannot work, ``warning`` if they may suffer.
        fact: What was found, with its value.
        way_out: What to do; empty if nothing need be done.
    """

    topic: str
    verdict: Verdict
    fact: str
    way_out: str = ""

    def __str__(self) -> str:
        return f"{self.verdict:<7}  {self.topic}: {self.fact}" + (f" {self.way_out}" if self.way_out else "")

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON-like data."""
        return asdict(self)


def ok(topic: str, fact: str) -> Finding:
    """Return a finding that is in order."""
    return Finding(topic=topic, verdict="ok", fact=fact)


def warning(topic: str, fact: str, way_out: str = "") -> Finding:
    """Return a finding from which runs may suffer."""
    return Finding(topic=topic, verdict="warning", fact=fact, way_out=way_out)


def problem(topic: str, fact: str, way_out: str) -> Finding:
    """Return a finding with which runs cannot work."""
    return Finding(topic=topic, verdict="problem", fact=fact, way_out=way_out)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A known fault of Slurm: in every version from ``since`` on, in each branch until it was fixed there."""

    since: Version
    fixed: tuple[Version, ...]
    what: str
    way_out: str

    def concerns(self, version: Version) -> bool:
        """Return whether a version has the fault: older than the fix in its own branch, or than the first fix."""
        if version < self.since:
            return False
        same_branch = [fix for fix in self.fixed if fix[:2] == version[:2]]
        return version < (same_branch or self.fixed)[0]


KNOWN_FAULTS = (
    Fault(
        since=(0,),
        fixed=((25, 5, 9), (25, 11, 8), (26, 5)),
        what="has the security faults that were fixed on 2 September 2026 (CVE-2026-65107 and seven more)",
        way_out="Ask an administrator for 25.05.9, 25.11.8, 26.05 or newer.",
    ),
    Fault(
        since=(0,),
        fixed=((24, 11),),
        what="can crash its controller when a heterogeneous job is submitted",
        way_out="Use placement=slice where roles fit on one kind of node.",
    ),
    Fault(
        since=(24, 5),
        fixed=((25, 5),),
        what="can hang steps of heterogeneous jobs that use PMIx",
        way_out="Leave MpiDefault at none, or use placement=slice.",
    ),
    Fault(
        since=(25, 5),
        fixed=((25, 11),),
        what="can hang srun in heterogeneous jobs",
        way_out="Use placement=slice where roles fit on one kind of node.",
    ),
    Fault(
        since=(25, 5),
        fixed=((25, 11, 6),),
        what="crashes slurmd on heterogeneous steps from an srun of 24.11 or older",
        way_out="Have the same version on all nodes.",
    ),
    Fault(
        since=(25, 5),
        fixed=((25, 11, 7),),
        what="can crash its controller when a component of a heterogeneous job does not start",
        way_out="Use placement=slice where roles fit on one kind of node.",
    ),
)


def findings(config: Settings, partitions: Mapping[str, Settings]) -> list[Finding]:
    """Return what the answers of ``scontrol show config`` and ``show partition`` mean for runs."""
    return [
        *_version(config),
        *_heterogeneous(config),
        *_preemption(config, partitions),
        *_signals(config),
        *_restarts(config),
        *_nodes(config),
        *_records(config),
        *(finding for name in sorted(partitions) for finding in _partition(name, partitions[name])),
    ]


def version(text: str) -> Version:
    """Return a version as numbers.

    >>> version("25.05.9"), version("26.05.0-0rc1")
    ((25, 5, 9), (26, 5, 0))
    """
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found.group(0).split(".")) if found else ()


def span_s(text: str, default: int = 0) -> int:
    """Return the seconds in a setting like ``30 sec``; ``default`` if it holds no number."""
    found = re.match(r"\d+", text)
    return int(found.group(0)) if found else default


def _version(config: Settings) -> Iterator[Finding]:
    text = config.get("SLURM_VERSION", "")
    found = [fault for fault in KNOWN_FAULTS if version(text) and fault.concerns(version(text))]
    if not found:
        yield ok("version", f"Slurm {text or 'of unknown version'}, without a fault we know of.")
    for fault in found:
        yield warning("version", f"Slurm {text} {fault.what}.", fault.way_out)


def _heterogeneous(config: Settings) -> Iterator[Finding]:
    scheduler = config.get("SchedulerType", "")
    if scheduler != "sched/backfill":
        yield warning(
            "placement",
            f"SchedulerType is {scheduler}: heterogeneous jobs never start.",
            "Set hetjobs: false in the profile; auto then takes slice or pair.",
        )
        return
    every_s = span_s(_option(config, "SchedulerParameters", "bf_interval"), BACKFILL_S)
    yield ok("placement", f"Heterogeneous jobs start when the backfill scheduler looks, every {every_s} s.")


def _preemption(config: Settings, partitions: Mapping[str, Settings]) -> Iterator[Finding]:
    kind, mode = config.get("PreemptType", "preempt/none"), config.get("PreemptMode", "OFF")
    if kind == "preempt/none":
        yield ok("preemption", "There is none on this cluster.")
        return
    yield ok("preemption", f"{kind}, mode {mode}.")
    for name, partition in sorted(partitions.items()):
        own = partition.get("PreemptMode", mode)
        if "SUSPEND" in own:
            yield warning(
                "preemption",
                f"Partition {name} suspends jobs: a run stands still without being told and the other nodes wait.",
                "Use a partition that requeues or cancels.",
            )
        elif own != "OFF" and span_s(partition.get("GraceTime", "0")) < SHORT_GRACE_S:
            grace_s = span_s(partition.get("GraceTime", "0"))
            yield warning(
                "preemption",
                f"Partition {name} gives a preempted job {grace_s} s of grace, perhaps less than a checkpoint takes.",
                "Choose checkpoint.every_steps so that the steps since the last one may be lost.",
            )


def _signals(config: Settings) -> Iterator[Finding]:
    if config.get("PreemptType", "preempt/none") == "preempt/none":
        return
    told = "preempt_send_user_signal" in config.get("SlurmctldParameters", "")
    told = told or "send_user_signal" in config.get("PreemptParameters", "")
    who = "USR2 to the supervisor" if told else "SIGTERM to the roles' steps only, whose guards tell the supervisor"
    yield ok("signals", f"A preemption sends {who}.")


def _restarts(config: Settings) -> Iterator[Finding]:
    delay = _option(config, "SchedulerParameters", "requeue_delay") or _option(config, "AuthInfo", "cred_expire")
    delay_s = span_s(delay, CRED_EXPIRE_S) + 1
    yield ok("restarts", f"A requeued job would wait {delay_s} s; runs queue their next job in advance instead.")
    codes = config.get("RequeueExit", "(null)")
    if "75" in re.split(r"[,\s]+", codes):
        yield warning(
            "restarts",
            f"RequeueExit is {codes}: Slurm requeues drained attempts (exit code 75) itself.",
            "Runs submit with --no-requeue, which overrides it; scripts of others may not.",
        )


def _nodes(config: Settings) -> Iterator[Finding]:
    timeout_s = span_s(config.get("SlurmdTimeout", ""))
    if timeout_s == 0:
        yield warning(
            "lost nodes", "SlurmdTimeout is 0: Slurm never gives up a node that is cut off.", "Tell an administrator."
        )
    else:
        slow = f"SlurmdTimeout is {timeout_s} s: so long a run waits for a node that is cut off."
        yield ok("lost nodes", slow) if timeout_s <= LONG_DETECTION_S else warning("lost nodes", slow)
    tracker = config.get("ProctrackType", "").removeprefix("proctrack/")
    if tracker == "cgroup":
        yield ok("processes", "Slurm ends all processes of a step (proctrack/cgroup).")
    else:
        yield warning(
            "processes",
            f"ProctrackType is proctrack/{tracker}: what a step leaves behind may run on.",
            "Our guards end it, unless they are killed themselves.",
        )
    yield ok("processes", f"Slurm kills {config.get('KillWait', 'unknown')} after it has asked (KillWait).")
    mpi = config.get("MpiDefault", "none")
    if mpi != "none":
        yield warning(
            "steps", f"MpiDefault is {mpi}: every step sets it up.", "Add --mpi=none to slurm.extra if steps hang."
        )


def _records(config: Settings) -> Iterator[Finding]:
    flags = config.get("AccountingStoreFlags", "(null)")
    if "job_env" in flags:
        yield ok("secrets", f"AccountingStoreFlags is {flags}: others may read environments. Ours stays out of Slurm.")
    memory_s = span_s(config.get("MinJobAge", ""), 300)
    if memory_s < SHORT_MEMORY_S:
        yield warning(
            "records", f"MinJobAge is {memory_s} s: Slurm forgets how a job ended before the next one can ask.",
            "Causes of lost attempts may read 'unknown'.",
        )  # fmt: skip
    accounting = config.get("AccountingStorageType", "").removeprefix("accounting_storage/")
    yield ok("records", f"Accounting is {accounting or 'none'}; runs do without it.")


def _partition(name: str, partition: Settings) -> Iterator[Finding]:
    state = partition.get("State", "UP")
    limits = f"at most {partition.get('MaxNodes')} nodes for {partition.get('MaxTime')}"
    has = f"{partition.get('TotalNodes')} nodes ({partition.get('Nodes')})"
    if state != "UP":
        yield warning(f"partition {name}", f"is {state}.", "Jobs in it wait until an administrator lets them start.")
    else:
        yield ok(f"partition {name}", f"{has}, {limits}.")


def _option(config: Settings, key: str, option: str) -> str:
    """Return the value of one of the comma-separated options of a setting; empty if it is not there."""
    found = re.search(rf"(?:^|,){option}=([^,]*)", config.get(key, ""))
    return found.group(1) if found else ""
