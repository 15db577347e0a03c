"""COCO's ground truth: ``{images, annotations, categories}``, one example of detection for each image.

Boxes come as ``[x, y, width, height]`` and are kept as corners, in pixels of the stored image; with
``resize`` both are scaled. Where the file says that an image is as large as Qwen's resizing would make
the one that is stored (a ground truth rescaled for evaluation, as PR1 has it), the image is resized to
it; where the two sizes differ otherwise, the row is an error, because its boxes would be off.

Crowds are no boxes to be found: they are in ``meta["coco"]``, beside the areas of the others, for
COCO's evaluation, which ignores them. Boxes without an area, of which COCO has two, are left out and
counted there.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.target import Box
from jobs.data import Example, gather, images, literal, rows, truths
from jobs.data.rows import Row, Rows
from jobs.data.settings import Options, Resize
from orchestrator.errors import InputError

PARTS = ("images", "annotations", "categories")
IDS = (("images", "id", "of its own"), ("categories", "id", "of its own"), ("annotations", "image_id", "of an image"))


@dataclass(frozen=True, kw_only=True)
class _Thing:
    """One annotation: corners in pixels, what it shows, and the area that COCO sorts sizes by."""

    box: Box
    label: str
    area: float
    crowd: bool


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return an example for every image, those without a box included. See ``jobs.data.gather`` for what is raised."""
    [file] = rows.files(path, "coco", [".json"])[:1]
    content = _content(file)
    names = {entry["id"]: str(entry.get("name")) for entry in content["categories"]}
    things: dict[Any, list[Any]] = defaultdict(list)
    for annotation in content["annotations"]:
        things[annotation["image_id"]].append(annotation)
    [folder] = rows.folders(options.images, [file])
    found: Rows = [
        Row(
            place=f"{file.name}, images[{position}]",
            values={**image, "annotations": things[image["id"]]},
            folder=folder,
            file=file.stem,
        )
        for position, image in enumerate(content["images"])
    ]
    taken = [found[position] for position in rows.positions(options.take, len(found))]
    return gather.examples(path, options, taken, lambda row, chosen: _example(row, chosen, names))


def _content(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(rows.text_of(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}: not JSON: {error}.") from None
    lists = isinstance(content, dict) and all(isinstance(content.get(part), list) for part in PARTS)
    if not lists or not all(isinstance(entry, dict) for part in PARTS for entry in content[part]):
        raise InputError(f"{file}: A ground truth of COCO has the lists {', '.join(PARTS)}. Results have other rows.")
    for part, key, meaning in IDS:
        faulty = [entry for entry in content[part] if type(entry.get(key)) is not int]
        if faulty:
            raise InputError(f"{file}: Every entry of {part} has a number {meaning} in {key!r}, got {faulty[0]!r:.80}.")
    return content


def _example(row: Row, options: Options, names: Mapping[Any, str]) -> Example:
    name = gather.words(row.values.get("file_name"), "file_name")
    image = _as_stated(images.found(name, row.folder), row.values, options.resize)
    width, height = images.size(image)
    things = [_thing(annotation, names) for annotation in row.values["annotations"]]
    wanted = [thing for thing in things if thing is not None and not thing.crowd]
    truth = truths.target(
        "detection",
        system="pixel",
        size_px=(width, height),
        boxes=[thing.box for thing in wanted],
        labels=[thing.label for thing in wanted],
    )
    return gather.example(
        row,
        options,
        kind="detection",
        question="",
        answer=truths.answer("detection", truth),
        pictures=[image],
        default="pr1_detection",
        names=tuple(names.values()),
        target=truth,
        identity=row.values.get("id"),
        meta={
            "classes": list(names.values()),
            "coco": {
                "image_id": row.values["id"],
                "file_name": name,
                "areas": [thing.area for thing in wanted],
                "crowd": [_crowd(thing) for thing in things if thing is not None and thing.crowd],
                "without_area": things.count(None),
            },
        },
    )


def _as_stated(image: bytes, stated: Mapping[str, Any], rule: Resize | None) -> bytes:
    """Return the image at the size that its boxes are about.

    Raises:
        ValueError: It has another size, which no resizing explains.
    """
    size_px = images.size(image)
    wanted = (stated.get("width", size_px[0]), stated.get("height", size_px[1]))
    if wanted == size_px:
        return image
    if wanted == images.resized_size(size_px, rule or Resize()):
        return images.scaled(image, wanted)
    raise ValueError(
        f"{stated.get('file_name')!r} is {size_px[0]} x {size_px[1]} pixels, and its boxes are about one of "
        f"{wanted[0]} x {wanted[1]}. If that one was resized, say how in 'resize'."
    )


def _thing(annotation: Mapping[str, Any], names: Mapping[Any, str]) -> _Thing | None:
    """Return an annotation; None if its box has no area."""
    number = annotation.get("category_id")
    if type(number) is not int or number not in names:
        raise ValueError(f"annotation {annotation.get('id')}: There is no category {number!r}.")
    given = annotation.get("bbox")
    if not isinstance(given, list) or len(given) != 4:
        raise ValueError(f"annotation {annotation.get('id')}: bbox is [x, y, width, height], got {given!r:.80}.")
    x, y, width, height = (literal.number(value) for value in given)
    if width <= 0 or height <= 0:
        return None
    return _Thing(
        box=(x, y, x + width, y + height),
        label=names[number],
        area=literal.number(annotation.get("area", width * height)),
        crowd=bool(annotation.get("iscrowd", 0)),
    )


def _crowd(thing: _Thing) -> dict[str, Any]:
    return {"box": list(thing.box), "label": thing.label, "area": thing.area}
