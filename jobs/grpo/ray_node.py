"""A node of rank above 0: joins the Ray of the role's first node and leaves with it.

It computes nothing itself; the driver's actors do, in this node's Ray. So, asked to stop, it stays
until the driver has saved and let it go. It exits with 0 then: the driver's exit code is the role's, and
another one of ours would make Slurm end the driver.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import Protocol

from jobs.entry import DRAINED, Context, Drain
from jobs.grpo import meeting
from jobs.grpo.cluster import Cluster, progress_name, resource
from jobs.grpo.meeting import Head
from jobs.grpo.ray_session import environment, object_store_bytes, own_address
from jobs.local_folder import LocalFolder
from orchestrator import processes
from orchestrator.errors import RunFailed
from orchestrator.progress import Progress

POLL_S = 0.2
ASK_EVERY_S = 1.0
ANSWER_S = 2.0
UNANSWERED = 3
"""The head is taken for gone when so many connections in a row have failed: after 2 s to 9 s."""
END_S = 3.0
"""Time for Ray to end by itself before it is killed."""


class Settings(Protocol):
    """What is asked of a role's settings here."""

    @property
    def ray_start_timeout_s(self) -> float:
        """Longest wait until Ray runs on all nodes of the role."""


def serve(context: Context, settings: Settings, cluster: Cluster, drain: Drain) -> int:
    """Serve one driver after the other until one lets this node go; return the exit code.

    Raises:
        RunFailed: No driver came in time, Ray ended by itself, or the driver went without a word.
    """
    said = Progress(context.run.progress, progress_name(context.role, cluster.rank))
    folder = LocalFolder(context.run.role(context.role), f"ray{cluster.rank}")
    # Let go by a driver that ended before we began: of this start only if its job step is ours.
    before = meeting.find(meeting.place(context.run, context.role), context.generation)
    over = {before.nonce} if before is not None and before.released and not _same_step(before) else set()
    try:
        while True:
            head = _wait_for_head(context, settings, said, drain, over)
            if head is None:
                return DRAINED
            if head.released or _serve_one(context, cluster, head, folder, said):
                said.update("let go", message="the driver has ended")
                return 0
            over.add(head.nonce)
    finally:
        folder.close()


def _same_step(head: Head) -> bool:
    return bool(head.step) and head.step == meeting.own_step()


def _wait_for_head(context: Context, settings: Settings, said: Progress, drain: Drain, over: set[str]) -> Head | None:
    """Return a head that answers or lets us go; None if told to stop while there is none.

    Args:
        context: Of the role.
        settings: Of the role.
        said: Where to say that we wait.
        drain: Whether we are told to stop.
        over: Heads that were served already, or are not ours to serve.
    """
    place = meeting.place(context.run, context.role)
    limit_s, began = settings.ray_start_timeout_s, time.monotonic()
    while not drain.requested:
        head = meeting.find(place, context.generation)
        if head is not None and head.nonce not in over and (head.released or answers(head.address)):
            return head
        waited_s = time.monotonic() - began
        if waited_s > limit_s:
            again = " again; the last one went without a word" if over else ""
            raise RunFailed(f"Ray: no driver came within {limit_s:g} s{again}. The log of rank 0 says why.")
        said.waiting("the driver's Ray", waited_s=waited_s, until_s=limit_s)
        time.sleep(POLL_S)
    return None


def _serve_one(context: Context, cluster: Cluster, head: Head, folder: LocalFolder, said: Progress) -> bool:
    """Be a node of ``head`` as long as it lives. Return True if it let us go, False if it was lost."""
    said.update("joining Ray", message=head.address)
    place = meeting.place(context.run, context.role)
    ray = _start(head, cluster, folder)
    asked_at, unanswered = time.monotonic(), 0
    try:
        while ray.poll() is None:
            known = meeting.find(place, context.generation)
            if known is not None and known.nonce == head.nonce and known.released:
                return True
            if known is None or known.nonce != head.nonce:
                return False
            if time.monotonic() - asked_at >= ASK_EVERY_S:
                unanswered = 0 if answers(head.address) else unanswered + 1
                asked_at = time.monotonic()
                if unanswered >= UNANSWERED:
                    return False
            said.update("serving", message=f"Ray at {head.address}, {cluster.cpus} CPU(s)")
            time.sleep(POLL_S)
    finally:
        _end(ray)
    if not answers(head.address):
        return False
    raise RunFailed(f"Ray: this node's Ray ended with exit code {ray.returncode}. Its own last words are above.")


def answers(head: str) -> bool:
    """Return whether something accepts connections where the head should be."""
    host, port = head.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_S):
            return True
    except OSError:
        return False


def command(head: Head, cluster: Cluster, temporary: str) -> list[str]:
    """Return the argv that joins ``head``. It holds no secret: everybody on the node can read it."""
    options = {
        "address": head.address,
        "node-ip-address": own_address(),
        "num-cpus": str(cluster.cpus),
        "num-gpus": str(cluster.gpus_per_node),
        "resources": f'{{"{resource(cluster.rank)}": 1}}',
        "object-store-memory": str(object_store_bytes()),
        "temp-dir": temporary,
        # The kernel's choice: the range that Ray prefers is every run's and every user's.
        "min-worker-port": "0",
        "max-worker-port": "0",
    }
    flags = ["--block", "--disable-usage-stats"]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", *flags] + [f"--{k}={v}" for k, v in options.items()]


def _start(head: Head, cluster: Cluster, folder: LocalFolder) -> subprocess.Popen[bytes]:
    """Start this node's Ray so that it ends with this process, even if that is killed."""
    parent = os.getpid()
    return subprocess.Popen(
        command(head, cluster, str(folder.path)),
        env=os.environ | environment(head.token_file, alone=False),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=lambda: processes.die_with_parent(parent),
    )


def _end(ray: subprocess.Popen[bytes]) -> None:
    """End this node's Ray and everything it started."""
    everything = processes.descendants(ray.pid)
    if ray.poll() is None:
        ray.send_signal(signal.SIGTERM)
        try:
            ray.wait(END_S)
        except subprocess.TimeoutExpired:
            ray.kill()
            ray.wait()
    left = processes.wait_gone(everything, 0.5)
    processes.kill(left)
    processes.wait_gone(left, 2.0)
