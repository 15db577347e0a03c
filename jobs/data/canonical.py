"""Our own files: every field of an example in a column, so that what is written is what is read.

Parquet holds the images; its columns ``problem, answer, images, visual_key_info, id`` are Perception-R1's
and can be read as such. JSONL names images by their sha256, in a folder beside it, once each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args
from uuid import uuid4

from eval.target import Kind, Target
from jobs.data import Example, gather, images
from jobs.data.rows import Row
from jobs.data.settings import Options
from orchestrator.files import sync_folder, write_text

if TYPE_CHECKING:
    import pyarrow as pa

KINDS: tuple[str, ...] = get_args(Kind)
TEXTS = ("id", "kind", "problem", "answer", "visual_key_info", "target", "meta")


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return every row of a file that ``write`` wrote. A prompt goes around the problems as they are."""
    return gather.load(path, "examples", options, _example, [".parquet", ".jsonl"], ids=True)


def write(path: Path, examples: Sequence[Example]) -> None:
    """Write examples as ``.parquet`` or ``.jsonl``, in their order, atomically."""
    if path.suffix == ".jsonl":
        _write_lines(path, examples)
    else:
        write_parquet(
            path,
            [record(example, [{"bytes": image, "path": None} for image in example.images]) for example in examples],
            _schema(),
        )


def record(example: Example, listed: Sequence[Any]) -> dict[str, Any]:
    """Return the row of an example, with its images as given."""
    return {
        "id": example.id,
        "kind": example.kind,
        "problem": example.problem,
        "answer": example.answer,
        "visual_key_info": example.visual_key_info,
        "images": list(listed),
        "target": None if example.target is None else _text(example.target.to_json()),
        "meta": _text(example.meta),
    }


def write_parquet(path: Path, records: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows so that the same rows make the same bytes, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        # Few rows a group, so that a reader of some rows does not hold the images of all.
        pq.write_table(pa.Table.from_pylist(list(records), schema=schema), temporary, row_group_size=256)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def image_type() -> pa.DataType:
    """Return the type of a column of images, which is that of Hugging Face."""
    import pyarrow as pa

    return pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def _schema() -> pa.Schema:
    import pyarrow as pa

    columns = [(name, pa.string()) for name in TEXTS]
    return pa.schema([*columns[:5], ("images", image_type()), *columns[5:]])


def _write_lines(path: Path, examples: Sequence[Example]) -> None:
    folder = path.with_name(f"{path.stem}_images")
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for example in examples:
        names = [_stored(image, folder) for image in example.images]
        lines.append(json.dumps(record(example, names), ensure_ascii=False))
    write_text(path, "".join(f"{line}\n" for line in lines), mode=0o644)


def _stored(image: bytes, folder: Path) -> str:
    """Return the path of an image, from beside the folder; written if it is not there yet."""
    file = folder / f"{hashlib.sha256(image).hexdigest()[:32]}.{_suffix(image)}"
    if not file.exists():
        temporary = file.with_name(f".{file.name}.{uuid4().hex[:8]}.tmp")
        temporary.write_bytes(image)
        temporary.replace(file)
    return f"{folder.name}/{file.name}"


def _suffix(image: bytes) -> str:
    marks = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"RIFF": "webp"}
    return next((suffix for mark, suffix in marks.items() if image.startswith(mark)), "image")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)


def _example(row: Row, options: Options) -> Example:
    from jobs.data import prompts

    values = row.values
    for name in ("id", "kind", "problem", "answer", "meta"):
        if not isinstance(values.get(name), str):
            raise ValueError(f"The row has no text {name!r}. Files that others wrote are read as 'plain' or 'geo3k'.")
    if values["kind"] not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}, got {values['kind']!r:.80}.")
    if not isinstance(values.get("images"), list):
        raise ValueError(f"images is a list, got {values.get('images')!r:.80}.")
    target, meta, annotation = values.get("target"), json.loads(values["meta"]), values.get("visual_key_info")
    if not isinstance(meta, dict) or not isinstance(target, str | None) or not isinstance(annotation, str | None):
        raise ValueError("meta and target are JSON in a text, and visual_key_info is a text.")
    return Example(
        id=values["id"],
        problem=prompts.filled(options.prompt, "plain", values["problem"]),
        answer=values["answer"],
        images=tuple(images.found(each, row.folder) for each in values["images"]),
        visual_key_info=annotation,
        kind=cast(Kind, options.kind or values["kind"]),
        target=None if target is None else Target.from_json(json.loads(target)),
        meta=meta,
        place=row.place,
    )
