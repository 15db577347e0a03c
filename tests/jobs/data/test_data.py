from __future__ import annotations

import io

import pytest
from PIL import Image

from eval.answers import delimited
from jobs import data
from orchestrator.errors import InputError


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param("5", "5", id="a number stays"),
        pytest.param(" -3.5 ", "-3.5", id="a signed decimal stays"),
        pytest.param("A", "$A$", id="a letter"),
        pytest.param("3:4", "$3:4$", id="a ratio"),
        pytest.param(r"2 \sqrt { 3 }", r"$2 \sqrt { 3 }$", id="LaTeX"),
        pytest.param("$5$", "$5$", id="delimited already"),
        pytest.param(r"\boxed{5}", r"\boxed{5}", id="boxed already"),
        pytest.param(r"\(x\)", r"\(x\)", id="parenthesised already"),
    ],
)
def test_answers_are_delimited_once(answer: str, expected: str) -> None:
    assert delimited(answer) == expected
    assert delimited(delimited(answer)) == expected


def test_an_unknown_source_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no source 'geo3'\. Did you mean 'geo3k'\?"):
        data.find("geo3")


def test_a_source_may_be_any_function() -> None:
    assert data.find("jobs.data.geo3k:load") is data.find("geo3k")


def test_a_source_that_cannot_be_imported_is_an_error() -> None:
    with pytest.raises(InputError, match="cannot be imported"):
        data.find("jobs.data.none:load")


def test_facts_are_the_texts_of_the_tags() -> None:
    assert data.facts("<info1>AB = 3</info1>\n<info2> right angle </info2>") == ["AB = 3", "right angle"]
    assert data.facts(None) == data.facts("") == []


def test_the_prompt_is_problem_space_format_prompt() -> None:
    example = data.Example(id="1", problem="<image>Why?", answer="1", images=(b"",), visual_key_info=None)

    assert data.prompt(example, "Think.") == "<image>Why? Think."
    assert data.prompt(example, "") == "<image>Why?"


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 0))

    decoded = data.decode(encoded(image))

    assert decoded.mode == "RGB"
    assert decoded.getpixel((0, 0)) == (255, 255, 255)


def test_what_is_no_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 bytes are not an image"):
        data.decode(b"abc")


def test_too_many_pixels_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    image = encoded(Image.new("RGB", (10, 11)))
    monkeypatch.setattr(data, "PIXELS_MAX", 100)

    with pytest.raises(ValueError, match="10 x 11 pixels"):
        data.decode(image)
