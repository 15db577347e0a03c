"""Safetensors files, written one tensor at a time with their digest, and read one tensor at a time by name.

The format is eight bytes of length, a JSON header, and the tensors' bytes. Written here and not by its library
because that holds all tensors as bytes at once, and would have the file read again for its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from jobs.grpo.checkpoint import Digest
from orchestrator.files import PRIVATE_FILE

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


def name(stem: str, rank: int, world: int) -> str:
    """Return the file of one rank as Hugging Face names it.

    >>> name("model", 0, 1), name("model", 1, 2)
    ('model.safetensors', 'model-00002-of-00002.safetensors')
    """
    return f"{stem}.safetensors" if world == 1 else f"{stem}-{rank + 1:05d}-of-{world:05d}.safetensors"


def index(files: Mapping[str, str], total_bytes: int) -> bytes:
    """Return the index that leads from a tensor's name to its file."""
    content = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(files.items()))}
    return json.dumps(content, indent=2).encode()


def write(path: Path, tensors: Mapping[str, Tensor]) -> Digest:
    """Write the tensors and flush them to the disk; return the file's size and SHA-256.

    Args:
        path: Of a file that is not there yet.
        tensors: On the CPU.
    """
    order = sorted(tensors)
    return write_bytes(path, (_header(tensors, order), *(_bytes(tensors[key]) for key in order)))


def write_bytes(path: Path, pieces: Iterable[bytes | memoryview]) -> Digest:
    """Write pieces one after the other and flush them to the disk; return the file's size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


class Reader(Mapping[str, Tensor]):
    """All tensors of a folder's safetensors files, by name; each is read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._files = [safe_open(path, framework="pt") for path in sorted(folder.glob("*.safetensors"))]
        self._places = {key: file for file in self._files for key in file.keys()}  # noqa: SIM118 - no dict

    def __getitem__(self, key: str) -> Tensor:
        tensor: Tensor = self._places[key].get_tensor(key)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _header(tensors: Mapping[str, Tensor], order: list[str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for key in order:
        tensor = tensors[key]
        end = begin + tensor.numel() * tensor.element_size()
        header[key] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
