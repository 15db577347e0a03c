"""Where finished builds live, named by the hash of everything that made them.

Same settings, same source files, same libraries: the same folder, made once. It appears whole or
not at all, so whoever finds it may use it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from orchestrator.files import private_folder, sync_folder

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "jobs/tiny",
    "jobs/sft",
    "jobs/data",
    "jobs/vlm.py",
    "jobs/rewards/judge_prompt.py",
    "eval/facts.py",
    "eval/target.py",
)
LIBRARIES = ("torch", "transformers", "tokenizers", "pillow", "pyarrow", "numpy")


def root() -> Path:
    """Return where builds are kept: ``$ORCH_CACHE``, else ``~/.cache/orchestrator``."""
    return Path(os.environ.get("ORCH_CACHE") or Path.home() / ".cache" / "orchestrator") / "tiny"


def name(settings: dict[str, Any]) -> str:
    """Return the hash of settings, source files and library versions."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in _files():
        digest.update(f"\0{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    for library in LIBRARIES:
        digest.update(f"\0{library}={version(library)}".encode())
    return digest.hexdigest()[:16]


def build(folder: Path, make: Callable[[Path], bool]) -> bool:
    """Let ``make`` fill a folder beside ``folder`` and give it that name; return False if it stopped early.

    Two builds of the same may run at once: the first to finish wins, and the other's is thrown away.
    """
    private_folder(folder.parent)
    beside = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.tmp")
    private_folder(beside)
    try:
        if not make(beside):
            return False
        try:
            beside.rename(folder)
        except OSError:
            # A folder that is not empty is never replaced by a rename: somebody else was first.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    sync_folder(folder.parent)
    return True


def _files() -> list[Path]:
    paths = [ROOT / source for source in SOURCES]
    return sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py")))
