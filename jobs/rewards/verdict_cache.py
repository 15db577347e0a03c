"""Verdicts that were paid for: a replay asks nothing and gets the same replies.

An append-only file of JSON lines in the folder of the role that scores, which is its only writer.
Memory holds where each line begins, not the line. The reply is kept, not its scores, so a better
reading of replies reaches old ones too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.files import PRIVATE_FILE, private_folder


def key(*, messages: list[Any], model: str, options: dict[str, Any]) -> str:
    """Return the name of one question to one model, as a hash.

    Args:
        messages: The prompt, which holds facts, response and template, and the hashes of images.
        model: What answers, the same across restarts of its server and different for other weights.
        options: Everything else that can change the reply.
    """
    question = json.dumps([messages, model, options], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(question.encode()).hexdigest()


class VerdictCache:
    """Records by key, in memory and in a file.

    Args:
        path: The file, made at the first record. None keeps records in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._memory: dict[str, dict[str, Any]] = {}
        self._begins: dict[str, int] = {}
        self._descriptor: int | None = None
        if path is not None:
            self._open(path)

    def get(self, name: str) -> dict[str, Any] | None:
        """Return the record of that key, or None."""
        if self._descriptor is None:
            return self._memory.get(name)
        begin = self._begins.get(name)
        if begin is None:
            return None
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(begin)
            record: dict[str, Any] = json.loads(file.readline())
        return record

    def put(self, name: str, record: dict[str, Any]) -> None:
        """Keep a record. A process that is killed loses none that was put before.

        Not fsynced: a machine that loses power loses verdicts that can be asked for again.
        """
        if self._descriptor is None:
            self._memory[name] = record
            return
        line = json.dumps({"key": name, **record}).encode() + b"\n"
        self._begins[name] = os.lseek(self._descriptor, 0, os.SEEK_END)
        os.write(self._descriptor, line)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self, path: Path) -> None:
        private_folder(path.parent)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
        whole = 0
        for begin, line in _lines(path):
            whole = begin + len(line)
            try:
                self._begins[json.loads(line)["key"]] = begin
            except (ValueError, KeyError, TypeError):
                continue  # Cut short by a crash; its question is simply asked again.
        if whole < os.fstat(self._descriptor).st_size:
            os.write(self._descriptor, b"\n")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield every line that ends, with the offset at which it begins."""
    begin = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield begin, line
            begin += len(line)
