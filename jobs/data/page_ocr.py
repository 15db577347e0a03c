"""PageOCR of the Fox benchmark: ``{en,cn}_page_ocr.json`` with rows of ``{image, conversations}``.

Images lie beside it, in ``{en,cn}_pdf_png/``, if the options name no other folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.data import Example, gather, pr1
from jobs.data.rows import Row
from jobs.data.settings import Options

LANGUAGES = ("en", "cn")


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return the rows of a file. See ``jobs.data.gather.load`` for what is raised."""
    return gather.load(path, "page_ocr", options, _example, [".json"])


def _example(row: Row, options: Options) -> Example:
    language = row.file.partition("_")[0]
    meta: dict[str, Any] = {"dataset": "page_ocr", "language": language} if language in LANGUAGES else {}
    pages = row.folder / f"{language}_pdf_png"
    if options.images is None and pages.is_dir():
        row = replace(row, folder=pages)
    return pr1.ocr(row, options, meta)
