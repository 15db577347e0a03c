"""PixMo-Count: PR1's files of 540 ``{image_path, question, ground_truth}``, or the original parquet.

The original (``image_url, image_sha256, count, points, label``) has addresses for images. Each must
lie in the folder ``images`` as ``<image_sha256>.<suffix>``, and is compared with that sha256; or the
parquet has a column ``image``. Its points are in pixels, and are missing from its evaluation splits.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from jobs.data import Example, gather, images, literal, pr1, truths
from jobs.data.rows import Row
from jobs.data.settings import Options

SUFFIXES = [".jsonl", ".json", ".parquet"]
SPLITS = {"pixmo_count_test540": "test", "pixmo_count_val540": "val"}


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return the rows of a file. See ``jobs.data.gather.load`` for what is raised."""
    return gather.load(path, "pixmo_count", options, _example, SUFFIXES)


def _example(row: Row, options: Options) -> Example:
    if "image_sha256" not in row.values:
        return pr1.counting(
            row, options, {"dataset": "pixmo_count", "split": SPLITS[row.file]} if row.file in SPLITS else None
        )
    image = images.found(row.values["image"], row.folder) if row.values.get("image") else _by_hash(row)
    points = literal.points(row.values.get("points") or [])
    count = row.values.get("count")
    truth = truths.target(
        "counting",
        system=options.coordinates or "pixel",
        size_px=images.size(image),
        points=points,
        count=None if count is None else literal.count(count),
    )
    return gather.example(
        row,
        options,
        kind="counting",
        question=gather.words(row.values.get("label"), "label"),
        answer=truths.answer("counting", truth),
        pictures=[image],
        default="pr1_counting",
        target=truth,
    )


def _by_hash(row: Row) -> bytes:
    sha256 = gather.words(row.values["image_sha256"], "image_sha256")
    if not sha256.isalnum():
        raise ValueError(f"image_sha256 is no sha256: {sha256!r:.80}.")
    file = next(iter(sorted(row.folder.glob(f"{sha256}.*"))), None)
    if file is None:
        raise ValueError(
            f"There is no image {sha256}.* in {str(row.folder)!r}. Save {row.values.get('image_url')!r} there."
        )
    image = images.found(file.name, row.folder)
    if hashlib.sha256(image).hexdigest() != sha256:
        raise ValueError(
            f"The image {file.name!r} is not the one that was counted: its sha256 is another. Save it again."
        )
    return image
