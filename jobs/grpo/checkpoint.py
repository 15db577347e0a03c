"""Checkpoints that exist in full or not at all.

Files are written into a temporary folder and fsynced; MANIFEST.json, with size and SHA-256 of each,
is written last; the folder is renamed to its final name and its parent fsynced. A reader takes the
newest folder whose manifest verifies and renames a bad one ``.bad-<time>`` for a person to look at.
No pickle is written or read: weights and moments are safetensors, the rest is JSON.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from jobs.grpo.prompts import Cursor
from orchestrator.errors import ConflictError, OrchestratorError
from orchestrator.files import PRIVATE_FOLDER, read_json, sync_folder, write_json

MANIFEST = "MANIFEST.json"
STATE = "state.json"
MODEL_FOLDER = "model"
OPTIMIZER_FILE = "optimizer.safetensors"
NAME = re.compile(r"step_(\d{8})")
Digest = dict[str, Any]
"""``{"bytes": length, "sha256": hex}`` of one file."""


class NoSpace(OrchestratorError):
    """The filesystem cannot hold another checkpoint. The last one is untouched."""


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything but the policy's own files that a resumed run needs.

    Attributes:
        step: Optimiser steps committed.
        cursor: The next batch of prompts.
        metrics_bytes: Length of metrics.jsonl after that step; later lines are undone by a resume.
        rollouts_bytes: Length of rollouts.jsonl, likewise.
        settings_sha256: Of the settings that trained it; a resume under others is refused.
    """

    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    metrics_bytes: int = 0
    rollouts_bytes: int = 0
    settings_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint."""

    folder: Path
    state: State


def begin(root: Path, step: int) -> Path:
    """Return a new empty folder beside the final one, for the policy to write into.

    What saves that were cut short have left is deleted first: it would take the room of this one.

    Raises:
        NoSpace: The filesystem has less room than the newest checkpoint takes.
    """
    root.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    _clear(root)
    _require_space(root)
    folder = root / f".{folder_name(step)}.{uuid4().hex[:8]}.tmp"
    folder.mkdir(mode=PRIVATE_FOLDER)
    return folder


def commit(
    folder: Path,
    state: State,
    generation: int,
    still_ours: Callable[[], None],
    digests: Mapping[str, Digest] = MappingProxyType({}),
) -> Path:
    """Turn what was written into ``folder`` into the checkpoint of ``state.step`` and return its path.

    A folder of that name from an abandoned attempt is moved aside, not overwritten.

    Args:
        folder: From ``begin``, filled by the policy.
        state: What goes into state.json.
        generation: Written into the manifest.
        still_ours: Called just before the rename; raises if a newer generation has taken over.
        digests: Of files that whoever wrote them has synced and hashed; the others are here.

    Raises:
        OSError: A file of ``digests`` is not here in full: a network filesystem may show it later than its writer.
    """
    _require_arrived(folder, digests)
    write_json(folder / STATE, asdict(state))
    here = {str(path.relative_to(folder)): path for path in _files(folder)}
    files = {**digests, **{name: digest(path, sync=True) for name, path in here.items() if name not in digests}}
    write_json(folder / MANIFEST, {"step": state.step, "generation": generation, "files": files})
    for directory in (*filter(Path.is_dir, folder.rglob("*")), folder):
        sync_folder(directory)
    still_ours()
    final = folder.parent / folder_name(state.step)
    if final.exists():
        _quarantine(final)
    os.rename(folder, final)
    sync_folder(final.parent)
    return final


def newest(root: Path) -> Checkpoint | None:
    """Return the newest checkpoint that verifies, moving aside those that do not; None if none does."""
    for step in sorted(steps(root), reverse=True):
        folder = root / folder_name(step)
        fault = find_fault(folder)
        if fault is None:
            return Checkpoint(folder=folder, state=_state(folder))
        print(f"checkpoint {folder} is not used: {fault} It is kept as {_quarantine(folder).name}.", flush=True)
    return None


def find_fault(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint in a sentence, or None if every file is as it was written."""
    try:
        manifest = read_json(folder / MANIFEST)
    except ValueError as error:
        return f"Its manifest cannot be read: {error}"
    if manifest is None:
        return "It has no manifest."
    if not _is_manifest(manifest):
        return "Its manifest does not say what it has to."
    if folder_name(manifest["step"]) != folder.name:
        return f"Its manifest is of step {manifest['step']}."
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing."
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, not {expected['bytes']}."
        if digest(path, sync=False)["sha256"] != expected["sha256"]:
            return f"{name} does not have the SHA-256 of its manifest."
    return None


def steps(root: Path) -> list[int]:
    """Return the steps of all committed checkpoints, ascending."""
    names = (NAME.fullmatch(path.name) for path in root.glob("step_*"))
    return sorted(int(match.group(1)) for match in names if match)


def prune(root: Path, *, keep_last: int, keep_every: int | None) -> list[int]:
    """Delete old checkpoints and abandoned temporary folders; return the steps deleted.

    Call only after a commit: the newest ``keep_last`` are never touched, so there is always one.
    """
    every = steps(root)
    doomed = [s for s in every[: -max(keep_last, 1)] if not (keep_every and s % keep_every == 0)]
    for step in doomed:
        # Renamed first: a crash inside rmtree must not leave a folder that looks committed.
        grave = root / f".{folder_name(step)}.{uuid4().hex[:8]}.tmp"
        os.rename(root / folder_name(step), grave)
    _clear(root)
    return doomed


def _clear(root: Path) -> None:
    for folder in root.glob(".step_*.tmp"):
        shutil.rmtree(folder)


def _state(folder: Path) -> State:
    record = read_json(folder / STATE)
    assert record is not None
    return State(**(record | {"cursor": Cursor(**record["cursor"])}))


def folder_name(step: int) -> str:
    """Return the name of a step's checkpoint."""
    return f"step_{step:08d}"


def _is_manifest(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("step"), int)
        and isinstance(value.get("files"), dict)
        and STATE in value["files"]
        and all(isinstance(file, dict) and {"bytes", "sha256"} <= file.keys() for file in value["files"].values())
    )


def _require_arrived(folder: Path, digests: Mapping[str, Digest]) -> None:
    for name, written in digests.items():
        arrived = (folder / name).stat().st_size
        if arrived != written["bytes"]:
            raise OSError(
                f"checkpoint: {folder / name} has {arrived} bytes here and {written['bytes']} where it was written. "
                "The checkpoint is not committed; the one before it stands."
            )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def digest(path: Path, *, sync: bool) -> Digest:
    """Return a file's length and SHA-256; ``sync`` makes it survive a loss of power first."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": sha256}


def _quarantine(folder: Path) -> Path:
    target = folder.with_name(f"{folder.name}.bad-{time.strftime('%Y%m%dT%H%M%S')}-{uuid4().hex[:4]}")
    os.rename(folder, target)
    sync_folder(target.parent)
    return target


def _require_space(root: Path) -> None:
    existing = steps(root)
    if not existing:
        return
    needed = sum(path.stat().st_size for path in _files(root / folder_name(existing[-1])))
    free = shutil.disk_usage(root).free
    if free < needed:
        raise NoSpace(
            f"checkpoint: {root} has {free / 1e9:.2f} GB free and a checkpoint takes {needed / 1e9:.2f} GB. "
            "Free some space, or lower checkpoint.keep_last; then `resume` the run."
        )


def require_same_settings(state: State, settings_sha256: str, folder: Path) -> None:
    """Raise ConflictError if the checkpoint was trained under other settings."""
    if state.settings_sha256 != settings_sha256:
        raise ConflictError(
            f"resume: {folder} was trained under other settings ({state.settings_sha256[:12]}, "
            f"not {settings_sha256[:12]}). Start a new run for changed settings."
        )
