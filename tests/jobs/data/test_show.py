"""The contact sheet: boxes where they belong, nothing of the data taken for markup, nothing fetched."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval.target import Space, Target
from jobs.data import Example, show
from jobs.data.__main__ import main

from .pictures import json_lines, picture, save

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page)
    return parser.found


def example(system: str = "rel1000") -> Example:
    box = (100.0, 200.0, 500.0, 800.0) if system == "rel1000" else (10.0, 10.0, 50.0, 40.0)
    space = Space(system=system, width_px=100, height_px=50)  # type: ignore[arg-type]
    return Example(
        id=EVIL,
        problem=EVIL,
        answer=EVIL,
        images=(picture(), picture("blue", form="JPEG")),
        kind="detection",
        target=Target(space=space, boxes=(box,), labels=(EVIL,), points=(box[:2],)),
        meta={"coco": {"crowd": [{"box": [0.0, 0.0, 5.0, 5.0], "label": EVIL, "area": 25.0}]}, "x": EVIL},
    )


@pytest.mark.parametrize("system", ["pixel", "rel1000"])
def test_boxes_and_points_are_drawn_in_pixels_of_the_first_image(system: str) -> None:
    found = tags(show.page("t", [example(system)], 9))

    rects = [given for tag, given in found if tag == "rect"]
    circles = [given for tag, given in found if tag == "circle"]
    views = [given["viewbox"] for tag, given in found if tag == "svg"]

    assert [rects[1][name] for name in ("x", "y", "width", "height")] == ["10.0", "10.0", "40.0", "30.0"]
    assert rects[3]["stroke-dasharray"]
    assert (circles[0]["cx"], circles[0]["cy"]) == ("10.0", "10.0")
    assert views == ["0 0 100 50", "0 0 100 50"]
    assert len(rects) == 4


def test_text_of_the_data_is_never_markup() -> None:
    page = show.page(EVIL, [example()], 9)

    found = tags(page)
    assert not {tag for tag, _ in found} & {"script", "img"}
    assert not [name for _, given in found for name in given if name.startswith("on")]
    assert page.count("&lt;script&gt;") >= 6


def test_the_page_fetches_nothing_and_knows_light_and_dark() -> None:
    page = show.page("t", [example()], 9)

    addresses = re.findall(r"(?:href|src)=\"([^\"]*)\"|url\(([^)]*)\)", page)
    assert [address[:11] for address, _ in addresses] == ["data:image/", "data:image/"]
    assert "data:image/jpeg;base64," in page
    assert "prefers-color-scheme: dark" in page


def test_the_command_writes_the_first_ones(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    path = json_lines(
        tmp_path / "a.jsonl", *({"problem": f"{n}", "answer": "1", "images": ["a.png"]} for n in range(5))
    )
    out = tmp_path / "sheets" / "sheet.html"

    assert main(["show", "plain", str(path), "--out", str(out), "--limit", "3"]) == 0

    assert out.read_text(encoding="utf-8").count("<article>") == 3
    assert "3 of 5 problems" in out.read_text(encoding="utf-8")
