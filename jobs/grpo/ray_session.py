"""A Ray of one role's own: private folder, private token, no dashboard, nobody else's cluster.

``ray stop`` is never used, since it stops every Ray of every user on the host.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.files import PRIVATE_FILE, private_folder, write_text

LEFTOVER = "ray-folder"


class RaySession:
    """A started Ray. Close it; a process that dies without closing leaves a folder for the next start."""

    def __init__(self, temporary: Path, note: Path) -> None:
        self._temporary = temporary
        self._note = note

    @classmethod
    def start(cls, folder: Path, *, cpus: int, gpus: int) -> RaySession:
        """Start Ray with exactly these resources and return its session.

        Args:
            folder: Private to the role; remembers where Ray's temporary files are.
            cpus: CPU slots; bookkeeping, not cores.
            gpus: GPUs the role was given.
        """
        note = private_folder(folder) / LEFTOVER
        _remove_leftover(note)
        # Not below the run directory: Ray puts unix sockets there, whose paths may have 107 bytes.
        temporary = Path(tempfile.mkdtemp(prefix="orch-ray-"))
        write_text(note, str(temporary))
        _set_token(temporary)
        # Not before: Ray reads the authentication mode from the environment when it is imported.
        import ray

        with _own_signal_handlers():
            ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                _temp_dir=str(temporary),
                _node_ip_address="127.0.0.1",
                object_store_memory=_object_store_bytes(),
                runtime_env={"env_vars": _worker_environment()},
                log_to_driver=True,
            )
        return cls(temporary, note)

    def close(self) -> None:
        """Stop this Ray and remove its temporary folder."""
        import ray

        ray.shutdown()
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._note.unlink(missing_ok=True)


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Put back the handlers that ``ray.init`` replaces: its own ends the process before it can save."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _remove_leftover(note: Path) -> None:
    if note.exists():
        shutil.rmtree(note.read_text(encoding="utf-8"), ignore_errors=True)
        note.unlink()


def _set_token(temporary: Path) -> None:
    # Made here and not by Ray, which would write it readable by everyone.
    path = temporary / "token"
    write_text(path, secrets.token_hex(32), mode=PRIVATE_FILE)
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def _worker_environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE") if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(p for p in (os.getcwd(), os.environ.get("PYTHONPATH")) if p)}


def _object_store_bytes() -> int:
    free = shutil.disk_usage("/dev/shm").free
    return max(80 * 1024**2, min(2 * 1024**3, free // 4))
