"""verl's parquet: ``data_source, prompt, images, ability, reward_model, extra_info``, read and written without loss.

``reward_model.ground_truth`` is one text: the answer, or, where the truth has numbers, the target as
JSON, with its units. ``extra_info.index`` is our id and ``extra_info.record`` the rest of the example
as JSON. Of files that others wrote, what we have no field for (``data_source``, ``ability``, earlier
turns, ``extra_info``) is in ``meta["verl"]``, and is written back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from eval.target import Box, Target
from jobs.data import Example, canonical, gather, images, literal, prompts, truths
from jobs.data.rows import Row
from jobs.data.settings import Options
from orchestrator.errors import InputError

DATA_SOURCE = "orchestrator"
RECORD = "record"
KEPT = {"answer", "id", "kind", "meta", "target", "verl", "visual_key_info"}


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return every row of a file, or of a folder's of one split. See ``jobs.data.gather.load`` for what is raised."""
    return gather.load(path, "verl", options, _example, [".parquet"])


def write(path: Path, examples: Sequence[Example]) -> None:
    """Write examples for verl, in their order, atomically.

    The format prompt is not in them: verl has its own place for it.
    """
    import pyarrow as pa

    records = [_record(example) for example in examples]
    text = pa.string()
    schema = pa.schema(
        [
            ("data_source", text),
            ("prompt", pa.list_(pa.struct([("role", text), ("content", text)]))),
            ("images", canonical.image_type()),
            ("ability", text),
            ("reward_model", pa.struct([("style", text), ("ground_truth", text)])),
            ("extra_info", _extra_type(records)),
        ]
    )
    canonical.write_parquet(path, records, schema)


def _extra_type(records: Sequence[Mapping[str, Any]]) -> Any:
    """Return the type of ``extra_info``, which is what rows bring.

    Raises:
        InputError: They bring different types under one name.
    """
    import pyarrow as pa

    try:
        return pa.array([record["extra_info"] for record in records]).type
    except pa.ArrowInvalid as error:
        raise InputError(
            f"extra_info: Rows of several sources disagree about a type: {error}. Convert each alone."
        ) from None


def _record(example: Example) -> dict[str, Any]:
    theirs = example.meta.get("verl") or {}
    rest = {key: value for key, value in example.meta.items() if key != "verl"}
    truth = example.answer if example.target is None else json.dumps(example.target.to_json(), sort_keys=True)
    kept = {
        "answer": example.answer,
        "id": example.id,
        "kind": example.kind,
        "meta": rest,
        "target": None if example.target is None else example.target.to_json(),
        "verl": bool(theirs),
        "visual_key_info": example.visual_key_info,
    }
    return {
        "data_source": theirs.get("data_source", DATA_SOURCE),
        "prompt": [*theirs.get("before", ()), {"role": "user", "content": example.problem}],
        "images": [{"bytes": image, "path": None} for image in example.images],
        "ability": theirs.get("ability", example.kind),
        "reward_model": {"style": theirs.get("style", "rule"), "ground_truth": theirs.get("ground_truth", truth)},
        "extra_info": {
            **(theirs["extra_info"] if theirs else _extra_info(example)),
            RECORD: json.dumps(kept, ensure_ascii=False, sort_keys=True, allow_nan=False),
        },
    }


def _extra_info(example: Example) -> dict[str, str]:
    return {
        "split": str(example.meta.get("split", "")),
        "index": example.id,
        "answer": example.answer,
        "question": example.problem,
    }


def _example(row: Row, options: Options) -> Example:
    values = row.values
    turns = values.get("prompt")
    if not isinstance(turns, list) or not turns or turns[-1].get("role") != "user":
        raise ValueError(f"prompt is a list of turns that ends with the user's, got {turns!r:.80}.")
    reward = values.get("reward_model") or {}
    truth = gather.words(reward.get("ground_truth"), "reward_model.ground_truth")
    extra = dict(values.get("extra_info") or {})
    pictures = [images.found(each, row.folder) for each in values.get(options.columns.get("images", "images")) or []]
    kept = _kept(extra.get(RECORD))
    theirs = {
        "data_source": values.get("data_source"),
        "ability": values.get("ability"),
        "before": turns[:-1],
        "style": reward.get("style"),
        "ground_truth": truth,
        "extra_info": {key: value for key, value in extra.items() if key != RECORD and value is not None},
    }
    problem = gather.words(turns[-1].get("content"), "prompt")
    if kept is not None:
        return _ours(row, options, kept, theirs, problem, pictures)
    target = _target(truth, pictures, options)
    kind = options.kind or (_kind(target) if target is not None else "math")
    return gather.example(
        row,
        options,
        kind=kind,
        question=problem,
        answer=truths.answer(kind, target) if target is not None else truths.text(kind, truth),
        pictures=pictures,
        target=target,
        identity=extra.get("index"),
        meta={"verl": theirs},
    )


def _kept(record: Any) -> dict[str, Any] | None:
    """Return what we wrote besides; None if the row is not ours."""
    if not isinstance(record, str):
        return None
    try:
        kept = json.loads(record)
    except (ValueError, RecursionError):
        return None
    return kept if isinstance(kept, dict) and set(kept) >= KEPT else None


def _ours(
    row: Row,
    options: Options,
    kept: Mapping[str, Any],
    theirs: Mapping[str, Any],
    problem: str,
    pictures: Sequence[bytes],
) -> Example:
    """Return the example that a row was written from."""
    target = kept["target"]
    meta = {**kept["meta"], **({"verl": dict(theirs)} if kept["verl"] else {})}
    return Example(
        id=kept["id"],
        problem=prompts.filled(options.prompt, "plain", problem),
        answer=kept["answer"],
        images=tuple(pictures),
        visual_key_info=kept["visual_key_info"],
        kind=options.kind or cast("Any", kept["kind"]),
        target=None if target is None else Target.from_json(target),
        meta=meta,
        place=row.place,
    )


def _target(truth: str, pictures: Sequence[bytes], options: Options) -> Target | None:
    """Return the numbers of a ground truth: our JSON, or a box in the units of ``coordinates``."""
    if truth.lstrip().startswith("{"):
        try:
            return Target.from_json(literal.read(truth))
        except ValueError:
            return None
    if options.kind not in ("grounding", "counting", "detection"):
        return None
    if len(pictures) != 1 or options.coordinates is None:
        raise ValueError("Boxes and counts need one image and 'coordinates': pixel, rel1000 or rel1.")
    boxes: tuple[Box, ...] = ()
    labels: tuple[str, ...] = ()
    count = None
    if options.kind == "grounding":
        boxes = (literal.box(truth),)
    elif options.kind == "detection":
        boxes, labels = truths.detection(truth)
    else:
        count = literal.count(truth)
    return truths.target(
        options.kind,
        system=options.coordinates,
        size_px=images.size(pictures[0]),
        boxes=boxes,
        labels=labels,
        count=count,
    )


def _kind(target: Target) -> str:
    if target.labels:
        return "detection"
    return "grounding" if len(target.boxes) == 1 else "counting"
