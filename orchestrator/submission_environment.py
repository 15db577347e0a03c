"""The environment of the shell that submitted a run, kept for the supervisor on the cluster.

Slurm would hand it on itself, and by that write it into its own records, which administrators and,
with job accounting, others can read. So ``sbatch`` gets ``--export=NIL`` and the variables lie in one
0600 file of the run directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from orchestrator.files import private_folder, read_json, write_json
from orchestrator.run_directory import RunDirectory

OURS = ("ORCH_CACHE", "ORCH_CLUSTER", "ORCH_RUNS")
"""Settings of a person; every other ``ORCH_`` variable belongs to one process of one run."""
LEFT_OUT = frozenset(
    {
        # Of that shell and terminal.
        *("_", "PWD", "OLDPWD", "SHLVL", "TERM", "COLUMNS", "LINES", "HOSTNAME", "STY", "TMUX", "TMUX_PANE"),
        # Sockets and folders of the submitting machine.
        *("SSH_AUTH_SOCK", "SSH_AGENT_PID", "SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "DISPLAY", "XAUTHORITY"),
        *("XDG_RUNTIME_DIR", "XDG_SESSION_ID", "DBUS_SESSION_BUS_ADDRESS", "TMPDIR", "TMP", "TEMP"),
        # Devices of an allocation in which somebody typed `submit`.
        *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
        *("ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL"),
    }
)
LEFT_OUT_PREFIXES = (
    *("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SCANCEL_", "SACCT_", "SINFO_", "SPANK_"),
    *("SUBMITIT_", "ORCH_", "PMI_", "PMI2_", "PMIX_", "OMPI_", "HYDRA_"),
)
JOINED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "MANPATH")
"""Lists of folders: the script's come first, the submitting shell's after them."""


def write(run: RunDirectory) -> None:
    """Store this process's environment for the run's supervisor, 0600."""
    private_folder(run.secrets)
    write_json(_file(run), kept(os.environ))


def read(run: RunDirectory) -> dict[str, str]:
    """Return what was stored; nothing for a run whose script was submitted by hand."""
    return dict(read_json(_file(run)) or {})


def restore(run: RunDirectory, environment: MutableMapping[str, str]) -> None:
    """Complete a job's environment with what was stored; what Slurm and the script have set stays."""
    for name, value in read(run).items():
        if name in JOINED and environment.get(name):
            environment[name] = _joined(environment[name], value)
        else:
            environment.setdefault(name, value)


def kept(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that mean the same in another shell on another machine."""
    return {name: value for name, value in sorted(environment.items()) if _is_kept(name)}


def _is_kept(name: str) -> bool:
    return name in OURS or (name not in LEFT_OUT and not name.startswith(LEFT_OUT_PREFIXES))


def _joined(first: str, then: str) -> str:
    return ":".join(dict.fromkeys(folder for folder in f"{first}:{then}".split(":") if folder))


def _file(run: RunDirectory) -> Path:
    return run.secrets / "environment.json"
