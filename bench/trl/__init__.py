"""TRL's GRPO trainer on the same problem, in an environment of its own.

The environment has TRL as ``requirements.txt`` names it, beside the torch and transformers of this
environment, so that what differs is the trainer. It takes 1.5 GB and some minutes, once.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
TIMEOUT_S = 1800.0


def installed(cache: Path) -> Path | None:
    """Return the python of the environment with TRL, made if it is not there yet; None if that is not possible.

    Args:
        cache: Folder that the environment is made in.
    """
    folder = cache.expanduser() / "trl-1.16"
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return python
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    torch = f"torch=={version('torch')}"
    # The build for CPUs is on the index of pytorch.org only, unless a mirror has it.
    if not (_succeeds([*pip, torch]) or _succeeds([*pip, torch, "--index-url", CPU_TORCH])):
        return _left_out(folder, torch)
    transformers = f"transformers=={version('transformers')}"
    if not _succeeds([*pip, "-r", str(REQUIREMENTS), torch, transformers]):
        return _left_out(folder, "TRL")
    (folder / "ready").touch()
    return python


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, check=False, timeout=TIMEOUT_S).returncode == 0


def _left_out(folder: Path, what: str) -> None:
    print(f"{what} cannot be installed in {folder}; TRL is not measured.", file=sys.stderr)
