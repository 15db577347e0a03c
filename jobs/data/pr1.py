"""PR1's rows in JSON, JSONL, or a YAML mix of such files. What a row is about shows in its keys.

    grounding   image, problem, solution: a box, and maybe normalized_solution: the same from 0 to 1000
    counting    image_path, question, ground_truth: a number; or image, problem, clicks: points
    detection   image, problem, solution: {target_id, target_box}, or both as keys of the row
    ocr         image, conversations: two turns, the second with the text

Boxes and points count from 0 to 1000 unless ``coordinates`` says otherwise, but for detection, whose
boxes are in pixels of the image *after* Qwen's resizing: it is resized here, by ``resize`` or as the
published training does it. ``solution`` may be a text; it is read as a literal and never evaluated.

A mix is ``datasets: [{json_path, sampling_strategy}]`` with ``all``, ``first:N``, ``end:N`` or
``random:N``, where N may be a share such as ``10%``. Paths in it start from its own folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval import coco
from jobs.data import Example, gather, images, literal, rows, truths, vlm_r1
from jobs.data.rows import Row, Rows
from jobs.data.settings import TAKE, Options, Resize
from orchestrator import strict_yaml
from orchestrator.errors import InputError, Problem, all_at_once

SUFFIXES = [".json", ".jsonl", ".yaml", ".yml"]
MIX_KEYS = {"json_path", "sampling_strategy"}
PUBLISHED = Resize()
"""Of the published training: sides of multiples of 28, 3,136 to 1,000,000 pixels."""
LABELS = {number: name for name, number in coco.IDS.items()}
IMAGES = ("image", "image_path", "images")


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return every row of a file, or of a mix. See ``jobs.data.gather.load`` for what is raised."""
    if path.suffix not in (".yaml", ".yml"):
        return gather.load(path, "pr1", options, example, SUFFIXES)
    rows.files(path, "pr1", SUFFIXES)
    found = mix(path, options)
    taken = [found[position] for position in rows.positions(options.take, len(found))]
    return gather.examples(path, options, taken, example)


def mix(path: Path, options: Options) -> Rows:
    """Return the rows that a YAML mix names.

    Raises:
        InputError: The mix is not one; all problems are listed.
        NotFound: A file is not there.
    """
    node = strict_yaml.load(path)
    content = strict_yaml.plain(node)
    entries = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: A mix is 'datasets:', a list of {{json_path, sampling_strategy}}.")
    problems = [problem for position, entry in enumerate(entries) for problem in _wrong(node, position, entry)]
    if problems:
        raise all_at_once(str(path), problems)
    listed = [rows.files(path.parent / entry["json_path"], "pr1", SUFFIXES[:2])[0] for entry in entries]
    found: list[Row | Problem] = []
    for entry, file, folder in zip(entries, listed, rows.folders(options.images, listed), strict=True):
        strategy = entry.get("sampling_strategy", "all")
        found += rows.read(file, folder, None if strategy == "all" else strategy)
    return found


def _wrong(node: strict_yaml.Node, position: int, entry: Any) -> list[Problem]:
    place = strict_yaml.place_of(node, ("datasets", position))
    if not isinstance(entry, dict) or not isinstance(entry.get("json_path"), str):
        return [Problem(place=place, fact=f"An entry names a file in 'json_path', got {entry!r:.80}.")]
    unknown = [f"{key!r}" for key in entry if key not in MIX_KEYS]
    problems = [
        Problem(
            place=place, fact=f"No such key: {', '.join(unknown)}.", way_out=f"Known: {', '.join(sorted(MIX_KEYS))}."
        )
    ]
    strategy = entry.get("sampling_strategy", "all")
    if strategy != "all" and not TAKE.fullmatch(str(strategy)):
        fact = f"sampling_strategy is all, first:N, end:N or random:N, with N a number or a share, got {strategy!r}."
        return [*(problems if unknown else []), Problem(place=place, fact=fact)]
    return problems if unknown else []


def example(row: Row, options: Options) -> Example:
    """Return the example of a row of any of the four tasks.

    Raises:
        ValueError: The row cannot be used.
    """
    kind = options.kind or _kind(row, options)
    make = {"grounding": grounding, "counting": counting, "detection": _detection, "ocr": ocr}.get(kind)
    if make is None:
        raise ValueError(f"PR1 has rows of grounding, counting, detection and ocr, not of {kind!r}.")
    return make(row, options)


def grounding(row: Row, options: Options, meta: dict[str, Any] | None = None) -> Example:
    """Return an example of grounding, with ``normalized_solution`` where there is one.

    Raises:
        ValueError: The row cannot be used.
    """
    pictures = gather.pictures(row, _image(row, options))
    normalised = row.values.get("normalized_solution")
    given = gather.column(row, options, "answer", "solution") if normalised is None else normalised
    system = "rel1000" if normalised is not None else options.coordinates or "rel1000"
    truth = truths.target("grounding", system=system, size_px=images.size(pictures[0]), boxes=[literal.box(given)])
    return gather.example(
        row,
        options,
        kind="grounding",
        question=_question(row, options),
        answer=truths.answer("grounding", truth),
        pictures=pictures,
        default="pr1_grounding",
        target=truth,
        identity=row.values.get("id"),
        meta=meta,
    )


def counting(row: Row, options: Options, meta: dict[str, Any] | None = None) -> Example:
    """Return an example of counting: points, or a number, or both.

    Raises:
        ValueError: The row cannot be used.
    """
    pictures = gather.pictures(row, _image(row, options))
    number = row.values.get(options.columns.get("count", "ground_truth"))
    clicks = row.values.get(options.columns.get("points", "clicks"))
    if number is None and clicks is None:
        raise ValueError(f"The row has neither 'clicks' nor 'ground_truth'. It has: {', '.join(map(str, row.values))}.")
    truth = truths.target(
        "counting",
        system=options.coordinates or "rel1000",
        size_px=images.size(pictures[0]),
        points=() if clicks is None else literal.points(clicks),
        count=None if number is None else literal.count(number),
    )
    return gather.example(
        row,
        options,
        kind="counting",
        question=_question(row, options),
        answer=truths.answer("counting", truth),
        pictures=pictures,
        default="pr1_counting",
        target=truth,
        identity=row.values.get("id"),
        meta=meta,
    )


def ocr(row: Row, options: Options, meta: dict[str, Any] | None = None) -> Example:
    """Return an example of OCR.

    Raises:
        ValueError: The row cannot be used.
    """
    question, given = vlm_r1.exchange(gather.column(row, options, "answer", "conversations"))
    return gather.example(
        row,
        options,
        kind="ocr",
        question=gather.without_placeholders(question),
        answer=gather.words(given, "conversations[1].value"),
        pictures=gather.pictures(row, _image(row, options)),
        identity=row.values.get("id"),
        meta=meta,
    )


def _detection(row: Row, options: Options) -> Example:
    solution = row.values.get(options.columns.get("answer", "solution"), row.values)
    solution = literal.read(solution)
    if not isinstance(solution, dict) or not {"target_id", "target_box"} <= set(solution):
        raise ValueError(f"Detection is {{target_id, target_box}}, got {solution!r:.80}.")
    numbers, boxes = literal.read(solution["target_id"]), literal.boxes(solution["target_box"])
    known = isinstance(numbers, list) and all(type(number) is int and number in LABELS for number in numbers)
    if not known or len(numbers) != len(boxes):
        raise ValueError(f"target_id names a class of COCO for each of {len(boxes)} boxes, got {numbers!r:.80}.")
    original = gather.pictures(row, _image(row, options))[0]
    size_px = images.resized_size(images.size(original), options.resize or PUBLISHED)
    labels = [LABELS[number] for number in numbers]
    truth = truths.target(
        "detection", system=options.coordinates or "pixel", size_px=size_px, boxes=boxes, labels=labels
    )
    return gather.example(
        row,
        options,
        kind="detection",
        question="",
        answer=truths.answer("detection", truth),
        # The published boxes are about the resized image, so that is what is kept.
        pictures=[images.scaled(original, size_px)],
        default="pr1_detection",
        target=truth,
        identity=row.values.get("id"),
    )


def _image(row: Row, options: Options) -> Any:
    names = [options.columns["images"]] if "images" in options.columns else IMAGES
    name = next((name for name in names if name in row.values), None)
    if name is None:
        raise ValueError(f"The row has no {' or '.join(map(repr, names))}. It has: {', '.join(map(str, row.values))}.")
    return row.values[name]


def _question(row: Row, options: Options) -> str:
    names = [options.columns["problem"]] if "problem" in options.columns else ("problem", "question")
    name = next((name for name in names if name in row.values), names[0])
    return gather.without_placeholders(gather.words(row.values.get(name), name))


def _kind(row: Row, options: Options) -> str:
    """Return what a row is about. ``columns`` may have renamed what shows it."""
    keys = set(row.values)
    if {"target_id", "target_box"} <= keys:
        return "detection"
    if "clicks" in keys or "ground_truth" in keys or "points" in options.columns or "count" in options.columns:
        return "counting"
    if "conversations" in keys:
        return "ocr"
    solution = row.values.get(options.columns.get("answer", "solution"))
    return "detection" if "target_id" in str(solution)[:1000] else "grounding"
