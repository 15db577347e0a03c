"""Plain tables: JSONL, JSON, CSV, TSV or parquet, with ``columns`` to say which column is what.

``problem``, ``answer`` and ``images`` (one path, or a list of paths) are enough for mathematics, choice
and text. Boxes and points need ``coordinates``:

    grounding   boxes, or answer: one box
    detection   boxes and labels, or answer: a list of {bbox_2d, label}
    counting    count, or answer: a number; and maybe points

Whatever other columns there are goes to ``meta``. Cells of CSV and TSV with lists are read as literals.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from eval.target import Kind, Target
from jobs.data import Example, gather, images, literal, truths
from jobs.data.rows import Row
from jobs.data.settings import COLUMNS, Options

SUFFIXES = [".jsonl", ".json", ".csv", ".tsv", ".parquet"]
KINDS: tuple[str, ...] = get_args(Kind)
NUMERIC = ("grounding", "counting", "detection")


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return every row of one or several files. See ``jobs.data.gather.load`` for what is raised."""
    return gather.load(path, "plain", options, _example, SUFFIXES, ids=True)


def _example(row: Row, options: Options) -> Example:
    kind = _kind(row, options)
    listed = _value(row, options, "images")
    if isinstance(listed, str) and listed.strip().startswith("["):
        listed = literal.read(listed)
    pictures = gather.pictures(row, listed) if listed not in (None, "") else []
    truth = _target(row, options, kind, pictures) if kind in NUMERIC else None
    given = _value(row, options, "answer")
    annotation = _value(row, options, "visual_key_info")
    return gather.example(
        row,
        options,
        kind=kind,
        question=gather.words(gather.column(row, options, "problem"), "problem"),
        answer=truths.answer(kind, truth) if truth is not None else truths.text(kind, given),
        pictures=pictures,
        target=truth,
        identity=_value(row, options, "id"),
        annotation=gather.words(annotation, "visual_key_info") if annotation else None,
        meta=_meta(row, options),
    )


def _kind(row: Row, options: Options) -> str:
    kind = options.kind or _value(row, options, "kind") or "math"
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}, got {kind!r:.80}.")
    return str(kind)


def _target(row: Row, options: Options, kind: str, pictures: list[bytes]) -> Target:
    if options.coordinates is None and kind != "counting":
        raise ValueError("Nothing says which units the boxes have. Set 'coordinates' to pixel, rel1000 or rel1.")
    if len(pictures) != 1:
        raise ValueError(f"Boxes and counts are about one image, got {len(pictures)}.")
    boxes, labels, points, count = _numbers(row, options, kind)
    if points and options.coordinates is None:
        raise ValueError("Nothing says which units the points have. Set 'coordinates' to pixel, rel1000 or rel1.")
    return truths.target(
        kind,
        system=options.coordinates or "pixel",
        size_px=images.size(pictures[0]),
        boxes=boxes,
        labels=labels,
        points=points,
        count=count,
    )


def _numbers(row: Row, options: Options, kind: str) -> tuple[Any, Any, Any, int | None]:
    """Return boxes, labels, points and count."""
    boxes, answer = _value(row, options, "boxes"), _value(row, options, "answer")
    if kind == "grounding":
        return [literal.box(answer if boxes is None else boxes)], (), (), None
    if kind == "counting":
        points, count = _value(row, options, "points"), _value(row, options, "count")
        count = answer if count is None else count
        found = () if points in (None, "") else literal.points(points)
        return (), (), found, None if found and count in (None, "") else literal.count(count)
    if boxes is None:
        return (*truths.detection(answer), (), None)
    labels = literal.read(_value(row, options, "labels"))
    if not isinstance(labels, list):
        raise ValueError(f"labels are a list of texts, got {labels!r:.80}.")
    return literal.boxes(boxes), tuple(map(str, labels)), (), None


def _value(row: Row, options: Options, name: str) -> Any:
    return row.values.get(options.columns.get(name, name))


def _meta(row: Row, options: Options) -> dict[str, Any]:
    """Return the columns that are nothing of ours, as far as JSON can hold them."""
    ours = {options.columns.get(name, name) for name in COLUMNS if name != "choices"}
    meta = {
        key: value for key, value in row.values.items() if key not in ours and value is not None and _is_json(value)
    }
    choices = meta.pop(options.columns.get("choices", "choices"), None)
    if choices is not None:
        meta["choices"] = literal.read(choices)
    return meta


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
