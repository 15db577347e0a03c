"""A contact sheet: one HTML file with images, boxes, questions and answers, that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.target import Target
from jobs.data import Example, images
from orchestrator.files import write_text

TEMPLATES = Path(__file__).resolve().parent / "templates"
# Told apart on light and dark pictures, and by people who do not see red and green as different.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a3ffc", "#6f4e37")
TYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


@dataclass(frozen=True, kw_only=True)
class Box:
    """One rectangle, in pixels of its image."""

    x: float
    y: float
    width: float
    height: float
    label: str
    colour: str
    crowd: bool = False


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image, and what is drawn over it; ``stroke`` and ``text`` grow with the image."""

    address: str
    width_px: int
    height_px: int
    boxes: Sequence[Box]
    points: Sequence[Mapping[str, float]]
    stroke: float
    text: float


@dataclass(frozen=True, kw_only=True)
class Card:
    """One example."""

    id: str
    kind: str
    place: str
    problem: str
    answer: str
    more: str
    pictures: Sequence[Picture]


def page(title: str, examples: Sequence[Example], limit: int) -> str:
    """Return the sheet of the first examples. All text is escaped; there is no script in it."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    cards = [_card(example) for example in examples[:limit]]
    return environment.get_template("sheet.html").render(title=title, cards=cards, total=len(examples))


def write(path: Path, title: str, examples: Sequence[Example], limit: int) -> None:
    """Write the sheet, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page(title, examples, limit), mode=0o644)


def _card(example: Example) -> Card:
    more = {
        **({"visual_key_info": example.visual_key_info} if example.visual_key_info else {}),
        **({"target": example.target.to_json()} if example.target else {}),
        **({"meta": dict(example.meta)} if example.meta else {}),
    }
    return Card(
        id=example.id,
        kind=example.kind,
        place=example.place,
        problem=example.problem,
        answer=example.answer,
        more=json.dumps(more, indent=1, ensure_ascii=False) if more else "",
        # Boxes and points are about the first image.
        pictures=[_picture(image, example if not number else None) for number, image in enumerate(example.images)],
    )


def _picture(image: bytes, example: Example | None) -> Picture:
    width, height = images.size(image)
    drawn = max(width, height)
    target = example.target if example else None
    return Picture(
        address=f"data:image/{_type(image)};base64,{base64.b64encode(image).decode()}",
        width_px=width,
        height_px=height,
        boxes=_boxes(target, example.meta) if example and target else [],
        points=[{"x": x, "y": y} for x, y in target.points_in("pixel").tolist()] if target and target.points else [],
        stroke=round(drawn / 250, 2),
        text=round(drawn / 28, 2),
    )


def _boxes(target: Target, meta: Mapping[str, Any]) -> list[Box]:
    labels = target.labels or [""] * len(target.boxes)
    names = list(dict.fromkeys(labels))
    boxes = [
        _box(corners, label, COLOURS[names.index(label) % len(COLOURS)])
        for corners, label in zip(target.boxes_in("pixel").tolist(), labels, strict=True)
    ]
    crowd = (meta.get("coco") or {}).get("crowd") or []
    return boxes + [_box(each["box"], f"{each['label']} (crowd)", "#6b7280", crowd=True) for each in crowd]


def _box(corners: Sequence[float], label: str, colour: str, *, crowd: bool = False) -> Box:
    x1, y1, x2, y2 = (round(value, 2) for value in corners)
    return Box(x=x1, y=y1, width=round(x2 - x1, 2), height=round(y2 - y1, 2), label=label, colour=colour, crowd=crowd)


def _type(image: bytes) -> str:
    return next((name for mark, name in TYPES.items() if image.startswith(mark)), "png")
