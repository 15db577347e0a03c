"""What a sandbox is to be like: sizes, and the settings of Slurm by which sites differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Layout = Literal["auto", "netns", "multi"]
Proctrack = Literal["auto", "cgroup", "pgid", "linuxproc"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one sandbox.

    Attributes:
        nodes: How many nodes; they are called n1, n2, ...
        gpus: GPUs that every node pretends to have.
        cpus: CPUs that every node pretends to have, whatever the machine has.
        memory_gb: Memory that every node pretends to have, GiB.
        grace_s: Seconds between the first signal of a preemption and the last, in the partitions that can be preempted.
        kill_wait_s: Seconds between SIGTERM and SIGKILL when Slurm ends a job.
        slurmd_timeout_s: Seconds without an answer after which a node counts as down.
        cred_expire_s: Life of a credential. A requeued job waits one second more than that before it may start again;
            Slurm's default is 120, the least it takes is 5.
        backfill: ``fast`` looks for work every second, so that tests are short; ``default`` leaves Slurm's own
            intervals alone (a heterogeneous job then starts after up to 30 s), for measurements.
        send_user_signal: Whether a preemption sends the signal that a job asked for with ``--signal``
            in place of SIGTERM.
        requeue_exit: Exit codes of a job with which Slurm requeues it.
        munge: Whether messages are authenticated by a munged of the sandbox's own. Without it everybody
            who can reach the ports is believed to be whom they say.
        proctrack: How Slurm finds the processes of a step. ``cgroup`` as on most sites; ``auto`` takes it where the
            kernel allows, else ``pgid`` (a task's process group).
        layout: ``netns`` gives each node its own network; ``multi`` starts all of them on 127.0.0.1; ``auto`` takes
            ``netns`` where the kernel allows.
    """

    nodes: int = 6
    gpus: int = 8
    cpus: int = 8
    memory_gb: int = 256
    grace_s: int = 5
    kill_wait_s: int = 3
    slurmd_timeout_s: int = 10
    cred_expire_s: int = 5
    backfill: Literal["fast", "default"] = "fast"
    send_user_signal: bool = False
    requeue_exit: tuple[int, ...] = ()
    munge: bool = True
    proctrack: Proctrack = "auto"
    layout: Layout = "auto"

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)}: must be {least} to {most}."
            for name, least, most in (
                ("nodes", 2, 64),
                ("gpus", 0, 64),
                ("cpus", 1, 1024),
                ("memory_gb", 1, 65536),
                ("grace_s", 0, 86400),
                ("kill_wait_s", 1, 3600),
                ("slurmd_timeout_s", 2, 86400),
                ("cred_expire_s", 5, 86400),
            )
            if not least <= getattr(self, name) <= most
        ]
        if problems:
            raise ValueError("sandbox options: " + " ".join(problems))

    @property
    def node_names(self) -> tuple[str, ...]:
        """The names of all nodes, in order."""
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Options:
        """Return the options that ``to_json`` wrote."""
        return cls(**{**value, "requeue_exit": tuple(value["requeue_exit"])})
