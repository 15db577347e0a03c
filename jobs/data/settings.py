"""What a recipe says about data. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from orchestrator.rendezvous import PLACEHOLDER
from orchestrator.section import Section

HOW_TO_GET = {
    "geo3k": "Get plain Geometry3K with `huggingface-cli download --repo-type dataset hiyouga/geometry3k "
    "--local-dir data/geometry3k`, or the annotated training set from the data set "
    "tongxiao2002/Perception-R1-Dataset. Without either, recipes/geo3k-tiny.yaml makes its own data."
}
"""Where the files of a source come from, for the error that says one is not there."""


class Data(Section):
    """Where problems come from."""

    source: str = "geo3k"
    """A name in ``jobs.data.SOURCES``, or ``package.module:function`` from a path to examples."""
    path: str = Field(min_length=1)
    """A file, or a folder of the files of one split."""


def absent(place: str, source: str, path: str) -> list[str]:
    """Return a sentence if the file is not there; nothing can be said of one that a role still has to make.

    Args:
        place: The setting that names the file, such as ``"data.path"``.
        source: The data's source.
        path: The file or folder, as the recipe names it.
    """
    if PLACEHOLDER.search(path) or Path(path).exists():
        return []
    return [f"{place}: There is no file {path!r}. {HOW_TO_GET.get(source, '')}".rstrip()]
