"""A Ray of one role's own: private folder, private token, no dashboard, nobody else's cluster.

Started on the role's first node; on every other one ``jobs.grpo.ray_node`` joins it. All ports are the
kernel's choice and every start has a token of its own, so two runs on one node never meet. ``ray stop``
is never used, since it stops every Ray of every user on the host.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.entry import Context
from jobs.grpo import meeting
from jobs.grpo.cluster import Cluster, progress_name, resource
from jobs.grpo.meeting import Head
from jobs.local_folder import LocalFolder
from orchestrator import progress, rendezvous
from orchestrator.errors import RunFailed
from orchestrator.files import PRIVATE_FILE, private_folder, write_text
from orchestrator.run_directory import RunDirectory

ALONE = "127.0.0.2"
"""Ray replaces 127.0.0.1 by the machine's address in its network, which changes when a laptop is carried away."""
HEALTH = {
    # A node that says nothing is given up after 3 s to 9 s; Ray's own limits are minutes.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
POLL_S = 0.1


class RaySession:
    """A started Ray. Close it; a process that dies without closing leaves a folder for the next start."""

    def __init__(self, cluster: Cluster, folder: LocalFolder, place: Path, head: Head, thread: Executor) -> None:
        self.cluster = cluster
        self._folder = folder
        self._place = place
        self._head = head
        self._thread = thread

    @classmethod
    async def start(cls, context: Context, cluster: Cluster) -> RaySession:
        """Start Ray on this node, publish it to the others, and return its session at once."""
        place = meeting.place(context.run, context.role)
        folder = LocalFolder(context.run.role(context.role), "ray")
        nonce = secrets.token_hex(8)
        token = _new_token(context.run, context.role, nonce)
        os.environ.update(environment(token, alone=len(cluster.hosts) == 1))
        # In a thread, so that others can import meanwhile and a wish to stop is heard. It lives as long
        # as Ray: the kernel ends Ray's daemons with the thread that started them.
        thread = ThreadPoolExecutor(1, thread_name_prefix="ray")
        starting = asyncio.get_running_loop().run_in_executor(thread, _init, cluster, folder.path)
        try:
            with _own_signal_handlers():
                address = await asyncio.shield(starting)
        except BaseException:
            # Asked to stop: Ray cannot be interrupted while it starts, and must not be left running.
            await asyncio.wait([starting])
            _stop(folder, token, thread)
            raise
        head = Head(
            address=address,
            generation=context.generation,
            nonce=nonce,
            token_file=str(token),
            step=meeting.own_step(),
        )
        meeting.publish(place, head)
        return cls(cluster, folder, place, head, thread)

    async def wait_for_nodes(self, context: Context, timeout_s: float) -> None:
        """Return when every node has joined with what it should bring.

        Raises:
            RunFailed: Nodes are missing after ``timeout_s``, or bring something else; names them.
        """
        began = time.monotonic()
        while missing := self._missing():
            waited_s = time.monotonic() - began
            if waited_s > timeout_s:
                raise RunFailed(self._absent(context, missing, timeout_s))
            hosts = ", ".join(self.cluster.hosts[rank] for rank in missing)
            context.progress.waiting(f"the Ray node(s) {hosts}", waited_s=waited_s, until_s=timeout_s)
            await asyncio.sleep(POLL_S)

    def close(self) -> None:
        """Let the other nodes go, stop this Ray and remove its folder and token."""
        meeting.release(self._place, self._head)
        _stop(self._folder, Path(self._head.token_file), self._thread)

    def _missing(self) -> list[int]:
        """Return the ranks that have not joined.

        Raises:
            RunFailed: A node brings other resources than the plan says.
        """
        import ray

        found: dict[int, dict[str, Any]] = {}
        for node in ray.nodes():
            for rank in range(len(self.cluster.hosts)):
                if node["Alive"] and resource(rank) in node["Resources"]:
                    found[rank] = node["Resources"]
        for rank, resources in found.items():
            self._require_exact(rank, resources)
        return [rank for rank in range(len(self.cluster.hosts)) if rank not in found]

    def _require_exact(self, rank: int, resources: dict[str, Any]) -> None:
        cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
        wanted_cpus = self.cluster.cpus_per_node or cpus
        if (cpus, gpus) != (wanted_cpus, self.cluster.gpus_per_node):
            raise RunFailed(
                f"Ray: {self.cluster.hosts[rank]} brings {cpus:g} CPU(s) and {gpus:g} GPU(s); the plan says "
                f"{wanted_cpus:g} and {self.cluster.gpus_per_node}."
            )

    def _absent(self, context: Context, missing: list[int], timeout_s: float) -> str:
        said = "; ".join(f"{self.cluster.hosts[rank]} {_last_words(context, rank)}" for rank in missing)
        return (
            f"Ray: {len(missing)} of {len(self.cluster.hosts)} nodes did not join within {timeout_s:g} s: {said}. "
            f"Their logs are beside this one; ray_start_timeout_s is the limit."
        )


def _stop(folder: LocalFolder, token: Path, thread: Executor) -> None:
    import ray

    ray.shutdown()
    thread.shutdown()
    folder.close()
    token.unlink(missing_ok=True)


def own_address() -> str:
    """Return the address of this node's Ray."""
    own = rendezvous.own_address()
    return ALONE if own == rendezvous.LOOPBACK else own


def environment(token: str | Path, *, alone: bool) -> dict[str, str]:
    """Return what every process of this Ray has in its environment, on every node.

    Args:
        token: The file that holds the token.
        alone: There is no other node whose silence would matter.
    """
    paths = (os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's own wait for work to move to other nodes; ours has nowhere to go.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if path)),
        **({} if alone else HEALTH),
    }


def object_store_bytes() -> int:
    """Return how much memory this node's object store may take: a quarter of what is free, at most 2 GiB."""
    free = shutil.disk_usage("/dev/shm").free
    return max(80 * 1024**2, min(2 * 1024**3, free // 4))


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Put back the handlers that ``ray.init`` replaces: its own end the process before it can save."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _init(cluster: Cluster, folder: Path) -> str:
    """Start Ray and return its address."""
    # Not before: Ray reads the authentication mode from the environment when it is imported.
    import ray

    ray.init(
        address="local",
        num_cpus=cluster.cpus,
        num_gpus=cluster.gpus_per_node,
        resources={resource(0): 1},
        include_dashboard=False,
        _temp_dir=str(folder),
        _node_ip_address=own_address(),
        object_store_memory=object_store_bytes(),
        log_to_driver=True,
    )
    return str(ray.get_runtime_context().gcs_address)


def _new_token(run: RunDirectory, role: str, nonce: str) -> Path:
    """Write the token of this start and remove those of starts that were killed."""
    for old in run.secrets.glob(f"{role}-ray-*.key"):
        old.unlink(missing_ok=True)
    # Made here and not by Ray, which would write it readable by everyone.
    path = private_folder(run.secrets) / f"{role}-ray-{nonce}.key"
    write_text(path, secrets.token_hex(32), mode=PRIVATE_FILE)
    return path


def _last_words(context: Context, rank: int) -> str:
    said = progress.read_one(context.run.progress, progress_name(context.role, rank))
    if said is None:
        return "has said nothing"
    words = progress.line(said.phase, said.done, said.total, said.unit, said.message)
    return f"said {max(0.0, time.time() - said.at):.0f} s ago: {words!r}"
