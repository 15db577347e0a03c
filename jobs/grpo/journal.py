"""The rollout journal: what every step was made from, kept until a checkpoint holds the step.

One file a step, ``step_00000012.jsonl``, written beside and renamed: a header, one line a record, and a last
line with the count and SHA-256 of what is above it. It is on the disk before the optimiser step begins. A run
that was killed takes its batches from here, so it repeats optimiser steps only: nothing is generated or
judged twice. A file that is torn or of other settings is as good as none, and the step is collected anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.files import private_folder, write_text

NAME = re.compile(r"step_(\d{8})\.jsonl")
TEMPORARY = re.compile(rf"\.{NAME.pattern}\.[0-9a-f]+\.tmp")
Record = dict[str, Any]


def append(folder: Path, step: int, settings_sha256: str, records: Iterable[Record]) -> Path:
    """Write the records of one step so that they outlive the machine; return the file.

    Args:
        folder: The journal.
        step: The step that is about to be made from them.
        settings_sha256: Of the settings they were collected under.
        records: JSON objects. Numbers come back as they went in, to the bit; NaN is allowed.
    """
    lines = [json.dumps({"step": step, "settings_sha256": settings_sha256})]
    # In ASCII: a judge's reply may hold half a surrogate pair, which no encoding can write.
    lines += [json.dumps(record) for record in records]
    body = "".join(line + "\n" for line in lines)
    tail = json.dumps({"records": len(lines) - 1, "sha256": hashlib.sha256(body.encode()).hexdigest()})
    path = _place(private_folder(folder), step)
    write_text(path, f"{body}{tail}\n")
    return path


def read(folder: Path, step: int, settings_sha256: str) -> list[Record] | None:
    """Return the records of one step as written; None if they are not there whole, or are of other settings."""
    try:
        content = _place(folder, step).read_bytes()
    except FileNotFoundError:
        return None
    body, tail = _split(content)
    if tail is None or tail.get("sha256") != hashlib.sha256(body).hexdigest():
        return None
    header, *records = [json.loads(line) for line in body.splitlines()]
    if header != {"step": step, "settings_sha256": settings_sha256} or len(records) != tail.get("records"):
        return None
    return records


def steps(folder: Path) -> list[int]:
    """Return the steps that have a file, ascending."""
    names = (NAME.fullmatch(path.name) for path in folder.glob("step_*.jsonl"))
    return sorted(int(match.group(1)) for match in names if match)


def prune(folder: Path, up_to: int) -> None:
    """Delete the files of all steps up to ``up_to``, and what unfinished writes of them left.

    Later steps are left alone: one may be being written, by another thread than this.

    Call with the step of the *oldest* checkpoint kept: should newer ones turn out damaged, the journal leads
    from there to where the run stood.
    """
    for step in steps(folder):
        if step <= up_to:
            _place(folder, step).unlink(missing_ok=True)
    for path in folder.glob(".step_*.tmp"):
        match = TEMPORARY.fullmatch(path.name)
        if match and int(match.group(1)) <= up_to:
            path.unlink(missing_ok=True)


def _split(content: bytes) -> tuple[bytes, Record | None]:
    """Return what the last line vouches for, and that line; None if it is none."""
    if not content.endswith(b"\n"):
        return content, None
    cut = content.rfind(b"\n", 0, len(content) - 1) + 1
    try:
        tail = json.loads(content[cut:])
    except ValueError:
        return content, None
    return content[:cut], tail if isinstance(tail, dict) else None


def _place(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}.jsonl"
