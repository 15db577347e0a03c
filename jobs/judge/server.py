"""The command line and environment of a judge's server: pure functions of its settings.

Two servers are known, and neither is ever reached but through ``jobs.judge.front``. vLLM asks for its
key on some paths only, so it listens on a unix socket in a folder of ours; it answers 404 to another
model's name, so that we can give every start a name of its own. ``transformers serve`` (4 s to
start, 0.5 GB) checks no key at all and knows no unix sockets: it listens on a port of the loopback, which
other users of the node can reach; and it answers to nothing but its model's own id.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.judge.settings import Settings, chosen_engine, is_cpu_build, option_name

HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Server:
    """How to start one server and how to speak to it.

    Attributes:
        engine: ``"vllm"`` or ``"transformers"``.
        argv: Its command line. Holds no secret.
        environment: Its environment. Holds the key.
        uds: The unix socket where it will listen; empty if it listens on ``port`` of ``HOST``.
        port: 0 if it listens on ``uds``.
        model: The model's name in requests.
        lists_models: Whether ``/v1/models`` tells what is served.
    """

    engine: str
    argv: list[str]
    environment: dict[str, str]
    uds: str
    port: int
    model: str
    lists_models: bool


def build(settings: Settings, *, folder: Path, nonce: str, key: str, base: Mapping[str, str]) -> Server:
    """Return the server that ``settings`` ask for.

    Args:
        settings: The judge's.
        folder: A private folder on this node's disk, for the server's socket.
        nonce: Drawn for this start.
        key: What the server is to ask its clients for.
        base: The environment to start from.
    """
    if chosen_engine(settings) == "vllm":
        uds = str(folder / "vllm.sock")
        return _vllm(settings, uds, f"judge-{nonce}", dict(base) | _offline(settings) | {"VLLM_API_KEY": key})
    return _transformers(settings, _free_port(), dict(base) | _offline(settings))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _vllm(settings: Settings, uds: str, name: str, environment: dict[str, str]) -> Server:
    cpu = is_cpu_build()
    options = {
        "model": settings.model,
        "served-model-name": name,
        "uds": uds,
        "dtype": _dtype(settings, cpu=cpu),
        "tensor-parallel-size": str(settings.tensor_parallel),
    }
    if settings.max_model_len is not None:
        options["max-model-len"] = str(settings.max_model_len)
    if not cpu:
        options["gpu-memory-utilization"] = str(settings.gpu_memory_utilization)
    elif settings.tensor_parallel == 1:
        # Compute inside the engine's process: one process less, 0.7 GB less, and seconds less to start.
        options["distributed-executor-backend"] = "uni"
    flags = ["enable-prefix-caching" if settings.enable_prefix_caching else "no-enable-prefix-caching"]
    # A line for every request would bury everything else in the log.
    flags.append("disable-uvicorn-access-log")
    if cpu:
        # Compiling takes longer than a short run on a CPU can win back.
        flags.append("enforce-eager")
    argv = [sys.executable, "-m", "jobs.judge.vllm_server"]
    for option, value in options.items():
        argv += [f"--{option}", value]
    argv += [f"--{flag}" for flag in flags] + _extra(settings)
    tuning = _cpu_tuning(environment) if cpu else {}
    private = {
        # Several processes of one server find each other; nobody outside this machine takes part.
        "VLLM_HOST_IP": HOST,
        # Nothing is told to anybody, and no answer is waited for where there is no network.
        "VLLM_NO_USAGE_STATS": "1",
    }
    return Server(
        engine="vllm",
        argv=argv,
        environment=tuning | private | environment,
        uds=uds,
        port=0,
        model=name,
        lists_models=True,
    )


def _extra(settings: Settings) -> list[str]:
    argv: list[str] = []
    for name, value in settings.extra_args.items():
        option = f"--{option_name(name)}"
        if value is True:
            argv.append(option)
        elif value is False:
            argv.append(f"--no-{option_name(name)}")
        else:
            argv += [option, str(value)]
    return argv


def _cpu_tuning(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what makes vLLM three times as fast on cores that it shares with a trainer.

    Bound threads fight the trainer's for their cores, and so do several threads a core. One GB of
    cache holds the prompts of a small judge many times over. The last one is what lets ``uni``
    above be taken at its word; the server keeps its engine in a process of its own all the same.
    """
    return {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", "1"),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


def _dtype(settings: Settings, *, cpu: bool) -> str:
    """Return what to compute in; vLLM's own ``auto`` takes half precision, which most CPUs emulate."""
    return "float32" if cpu and settings.dtype == "auto" else settings.dtype


def _transformers(settings: Settings, port: int, environment: dict[str, str]) -> Server:
    argv = [sys.executable, "-m", "jobs.judge.transformers_server", "serve", settings.model]
    argv += ["--host", HOST, "--port", str(port), "--dtype", settings.dtype]
    return Server(
        engine="transformers",
        argv=argv,
        environment=environment,
        uds="",
        port=port,
        model=settings.model,
        lists_models=False,
    )


def _offline(settings: Settings) -> dict[str, str]:
    """Return what keeps a server with its model on disk from asking the hub about it."""
    local = Path(settings.model).is_dir()
    return {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} if local else {}
