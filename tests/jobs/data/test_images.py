"""Images are found, measured and resized, and boxes go with them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eval.target import Space, Target
from jobs.data import Example, images
from jobs.data.settings import Resize

from .pictures import picture, save


def test_an_image_is_a_path_bytes_or_both(tmp_path: Path) -> None:
    save(tmp_path / "a.png")

    assert images.found("a.png", tmp_path) == images.found(picture(), tmp_path) == picture()
    assert images.found({"bytes": picture("blue"), "path": "a.png"}, tmp_path) == picture("blue")
    assert images.found({"bytes": None, "path": "a.png"}, tmp_path) == picture()


@pytest.mark.parametrize(
    ("given_value", "message"),
    [
        ("b.png", r"There is no image .*b\.png'\. Name the folder"),
        ("https://example.org/a.png", "is an address; nothing is downloaded"),
        (b"no image", "its bytes are no image"),
        (7, "An image is a path, bytes or"),
        ("", "An image is a path, bytes or"),
        (None, "An image is a path, bytes or"),
    ],
)
def test_what_is_no_image_is_an_error_and_never_replaced(tmp_path: Path, given_value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        images.found(given_value, tmp_path)


@pytest.mark.parametrize(
    ("size_px", "expected"),
    [
        ((640, 480), (644, 476)),
        ((28, 28), (56, 56)),
        ((4000, 3000), (1148, 840)),
        ((56, 56), (56, 56)),
        ((10, 1900), (28, 1904)),
    ],
)
def test_sizes_computed_by_hand(size_px: tuple[int, int], expected: tuple[int, int]) -> None:
    assert images.resized_size(size_px, Resize(max_pixels=1_000_000)) == expected


@given(width=st.integers(1, 5000), height=st.integers(1, 5000))
def test_sizes_are_multiples_within_the_limits_and_stay(width: int, height: int) -> None:
    rule = Resize()
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ValueError, match="too narrow"):
            images.resized_size((width, height), rule)
        return

    found = images.resized_size((width, height), rule)

    assert found[0] % 28 == found[1] % 28 == 0
    assert rule.min_pixels <= found[0] * found[1]
    if 28 not in found:
        assert found[0] * found[1] <= rule.max_pixels
        assert images.resized_size(found, rule) == found


@pytest.mark.slow
def test_sizes_are_those_of_qwens_own_processor() -> None:
    from jobs import torchvision_cpu

    torchvision_cpu.repair()
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    rule = Resize(max_pixels=1_000_000)
    for width in range(20, 3000, 371):
        for height in range(20, 3000, 293):
            high, wide = smart_resize(height, width, factor=28, min_pixels=3136, max_pixels=1_000_000)
            assert images.resized_size((width, height), rule) == (wide, high)


def boxed(system: str = "pixel") -> Example:
    box = (10.0, 10.0, 50.0, 40.0) if system == "pixel" else (100.0, 200.0, 500.0, 800.0)
    target = Target(
        space=Space(system=system, width_px=100, height_px=50), boxes=(box,), labels=("cat",), points=((20.0, 20.0),)
    )  # type: ignore[arg-type]
    meta = {"coco": {"areas": [500.0], "crowd": [{"box": [0.0, 0.0, 10.0, 10.0], "label": "cat", "area": 100.0}]}}
    return Example(id="1", problem="p", answer="[]", images=(picture(),), kind="detection", target=target, meta=meta)


def test_boxes_in_pixels_are_scaled_with_their_image() -> None:
    resized = images.resized(boxed(), Resize(min_pixels=100 * 50 * 4, max_pixels=10**6))

    # 100 x 50 grows by 2 to 200 x 100, rounded up to multiples of 28.
    assert images.size(resized.images[0]) == (224, 112)
    assert resized.target is not None
    assert (resized.target.space.width_px, resized.target.space.height_px) == (224, 112)
    assert resized.target.boxes[0] == pytest.approx((22.4, 22.4, 112.0, 89.6))
    assert resized.target.points[0] == pytest.approx((44.8, 44.8))
    assert resized.answer == '[{"bbox_2d": [22.4, 22.4, 112, 89.6], "label": "cat"}]'
    assert resized.meta["resized_from"] == [100, 50]
    assert resized.meta["coco"]["areas"] == pytest.approx([500 * 2.24 * 2.24])
    assert resized.meta["coco"]["crowd"][0]["box"] == pytest.approx([0, 0, 22.4, 22.4])


def test_relative_boxes_stay_what_they_are() -> None:
    resized = images.resized(boxed("rel1000"), Resize(min_pixels=100 * 50 * 4, max_pixels=10**6))

    assert resized.target is not None
    assert resized.target.boxes == ((100.0, 200.0, 500.0, 800.0),)
    assert resized.target.boxes_in("pixel")[0].tolist() == pytest.approx([22.4, 22.4, 112.0, 89.6])


def test_an_image_of_the_right_size_keeps_its_bytes() -> None:
    example = Example(id="1", problem="p", answer="1", images=(picture(size_px=(56, 84)),))

    assert images.resized(example, Resize()) is example


def test_the_box_still_lies_on_what_it_is_about() -> None:
    drawn = Image.new("RGB", (100, 50), "white")
    drawn.paste((255, 0, 0), (10, 10, 50, 40))
    file = io.BytesIO()
    drawn.save(file, format="PNG")
    example = Example(**{**vars(boxed()), "images": (file.getvalue(),)})

    resized = images.resized(example, Resize(min_pixels=100 * 50 * 4, max_pixels=10**6))

    assert resized.target is not None
    x1, y1, x2, y2 = map(round, resized.target.boxes[0])
    picture_after = Image.open(io.BytesIO(resized.images[0]))
    assert picture_after.getpixel((x1 + 3, y1 + 3)) == picture_after.getpixel((x2 - 3, y2 - 3)) == (255, 0, 0)
    assert picture_after.getpixel((x1 - 4, y1 - 4)) == picture_after.getpixel((x2 + 4, y2 + 4)) == (255, 255, 255)
