"""Small files that are either there in full or not at all.

Written beside, fsynced, renamed, and the folder fsynced: on a shared filesystem the rename is the
only transaction there is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def private_folder(path: Path) -> Path:
    """Create ``path`` (and its parents) readable by its owner alone, and return it."""
    path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    return path


def write_text(path: Path, text: str, *, mode: int = PRIVATE_FILE) -> None:
    """Replace ``path`` with ``text`` atomically; a reader sees the old file or the new one.

    The name of the temporary file is unique, so two writers cannot tear each other's file: the
    last rename wins whole. ``mode`` is set at creation, never afterwards, because a secret must
    not be readable even for a moment.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any, *, mode: int = PRIVATE_FILE) -> None:
    """Replace ``path`` with ``value`` as indented JSON, atomically. NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, sort_keys=False) + "\n", mode=mode)


def read_json(path: Path) -> Any | None:
    """Return the JSON value in ``path``, or None if there is no such file.

    Raises:
        ValueError: The file is not JSON. Our own files are written atomically, so this is damage.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}). The file was damaged or edited.") from None


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
