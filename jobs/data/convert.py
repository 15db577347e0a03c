"""From any source to a file of one format. The same rows make the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.data import Example, canonical, load, verl
from orchestrator.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format to convert to.

    Attributes:
        suffix: Of its files.
        source: What reads them back.
        write: Writes them.
    """

    suffix: str
    source: str
    write: Callable[[Path, Sequence[Example]], None]


FORMATS = {
    "verl": Format(suffix=".parquet", source="verl", write=verl.write),
    "parquet": Format(suffix=".parquet", source="examples", write=canonical.write),
    "jsonl": Format(suffix=".jsonl", source="examples", write=canonical.write),
}


def convert(examples: Sequence[Example], to: str, out: Path) -> str:
    """Write examples, read them back, compare, and return the file's sha256.

    Args:
        examples: What to write, in this order.
        to: A name in ``FORMATS``.
        out: The file.

    Raises:
        InputError: The file's suffix is another than the format's, or what was read back differs; the
            message names the first example that does.
    """
    chosen = FORMATS[to]
    if out.suffix != chosen.suffix:
        raise InputError(f"{out}: A file of {to} ends in {chosen.suffix}, not {out.suffix or 'without suffix'!r}.")
    chosen.write(out, examples)
    again = load(chosen.source, out)
    differs = next((one.id for one, other in zip(examples, again, strict=False) if one != other), None)
    if differs is not None or len(again) != len(examples):
        raise InputError(f"{out}: What was written is not what is read back, first at {differs!r}. Is meta plain JSON?")
    return sha256_of(out)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
