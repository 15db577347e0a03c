"""What a recipe says about data. Imports nothing heavy."""

from __future__ import annotations

from pydantic import Field

from orchestrator.section import Section


class Data(Section):
    """Where problems come from."""

    source: str = "geo3k"
    """A name in ``jobs.data.SOURCES``, or ``package.module:function`` from a path to examples."""
    path: str = Field(min_length=1)
    """A file, or a folder of the files of one split."""
