"""``python -m jobs.data``: what is wrong with a file is found, listed with its place, and said by the exit code."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.data.__main__ import main
from jobs.data.looks import look, looks, near

from .pictures import json_lines, picture, save


def noisy(seed: int, form: str = "PNG", size_px: tuple[int, int] = (64, 64), **how: Any) -> bytes:
    generator = random.Random(seed)
    coarse = Image.new("L", (8, 8))
    coarse.putdata([generator.randrange(256) for _ in range(64)])
    picture_of_noise = coarse.convert("RGB").resize(size_px, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture_of_noise.save(file, format=form, **how)
    return file.getvalue()


def row(**changes: Any) -> dict[str, Any]:
    return {"id": "1", "problem": "How long?", "answer": "5", "kind": "text", "images": ["a.png"], **changes}


def found_by(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_good_file_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a.png")
    path = json_lines(tmp_path / "a.jsonl", row(), row(id="2", problem="How wide?"))

    code, report = found_by("check", "plain", str(path), capsys=capsys)

    assert (code, report["good"], report["findings"]) == (0, True, [])
    assert (report["examples"], report["images"], report["forms"], report["sides_px"]) == (2, 1, {"PNG": 1}, [50, 100])
    assert report["notes"] == ["1 problem(s) share their images with an earlier one."]


def test_all_that_is_wrong_is_listed_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes(noisy(1)[:-400])
    path = json_lines(
        tmp_path / "a.jsonl",
        row(),
        row(id="2", images=["none.png"]),
        row(id="3", images=["cut.png"]),
        row(id="4", problem="?", answer="\\frac{", kind="math"),
        row(id="5"),
        row(id="6", problem="Which?", kind="choice", answer="E", choices=["x", "y"]),
    )

    code, report = found_by("check", "plain", str(path), capsys=capsys)

    assert code == 1
    assert [(finding["what"], finding["place"]) for finding in report["findings"]] == [
        ("row", "a.jsonl:2"),
        ("image", "a.jsonl:3"),
        ("repeated", "a.jsonl:5"),
        ("answer", "a.jsonl:4"),
        ("answer", "a.jsonl:6"),
    ]
    assert "no response can earn it" in report["findings"][3]["fact"]


@pytest.mark.slow
def test_mathematics_is_compared_with_itself_by_the_very_reward(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = ["5", "2\\sqrt{3}", "\\{1, 2\\}", "$$", "\\boxed{}", "\\frac{1}{2", "}{"]
    save(tmp_path / "a.png")
    rows = (row(id=f"{n}", problem=f"{n}?", kind="math", answer=answer) for n, answer in enumerate(answers))
    path = json_lines(tmp_path / "a.jsonl", *rows)

    code, report = found_by("check", "plain", str(path), capsys=capsys)

    assert code == 1
    assert [finding["id"] for finding in report["findings"]] == ["3", "4", "5", "6"]


def test_an_image_of_the_test_set_is_found_by_its_bytes_and_a_likeness_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "same.png").write_bytes(noisy(1))
    (tmp_path / "like.jpg").write_bytes(noisy(2, "JPEG", (128, 128), quality=95))
    (tmp_path / "other.png").write_bytes(noisy(3))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "x.png").write_bytes((tmp_path / "same.png").read_bytes())
    with Image.open(tmp_path / "like.jpg") as like:
        like.resize((64, 64), Image.Resampling.BOX).save(tmp_path / "test" / "y.png")
    train = json_lines(
        tmp_path / "train.jsonl", *(row(id=name, images=[name]) for name in ("same.png", "like.jpg", "other.png"))
    )
    test = json_lines(tmp_path / "test" / "test.jsonl", *(row(id=name, images=[name]) for name in ("x.png", "y.png")))

    code, report = found_by("check", "plain", str(train), "--against", f"plain:{test}", capsys=capsys)

    assert code == 1
    [finding] = report["findings"]
    assert (finding["what"], finding["id"], finding["place"]) == ("overlap", "same.png", "train.jsonl:1")
    assert finding["fact"].endswith("test.jsonl:1 (x.png).")
    assert any(note.startswith("1 more problem(s) have an image that looks like one of") for note in report["notes"])


def test_the_text_shows_findings_and_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a.png")
    path = json_lines(tmp_path / "a.jsonl", row(), row(id="2"))

    code = main(["check", "plain", str(path)])

    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    assert "  a.jsonl:2: The same images and question are in a.jsonl:1 (1), with the same answer." in lines
    assert lines[-1] == "1 problem(s)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "plian", "a"], "Did you mean 'plain'?"),
        (["check", "plain", "none.jsonl"], "none.jsonl: no such jsonl file."),
        (["check", "plain", "a", "--with", "resiez.factor=3"], "resiez: No such key. Did you mean 'resize'?"),
        (["check", "plain", "a", "--with", "take=some"], "take is first:N, end:N or random:N"),
        (["check", "plain", "a", "--with", "columns.anser=x"], "no such column of ours"),
        (["check", "plain", "a", "--with", "factor"], "is not an assignment"),
        (["check", "plain", "a", "--against", "b.jsonl"], "is not SOURCE:PATH"),
        (["show", "plain", "a"], "Missing option '--out'"),
        (["convert", "plain", "a", "--to", "csv", "b"], "'csv' is not one of"),
        (["chekc"], "No such command"),
    ],
)
def test_wrong_input_is_exit_code_2_with_the_way_out(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_fingerprint_of_what_is_seen_survives_encoding_and_size() -> None:
    png = noisy(1)
    with Image.open(io.BytesIO(png)) as opened:
        file = io.BytesIO()
        opened.resize((512, 512), Image.Resampling.BICUBIC).save(file, format="JPEG", quality=95)

    first, second, other = look(png), look(file.getvalue()), look(noisy(2))

    assert near([first.alike, other.alike, ""], [second.alike, ""]) == [True, False, False]
    assert first.alike != ""
    assert first.sha256 != second.sha256
    assert look(picture()).alike == ""


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_damage_at_the_end_of_a_file_is_found(form: str) -> None:
    whole = noisy(1, form, (256, 256))

    assert look(whole).fault == ""
    assert look(whole[: len(whole) // 2]).fault


def test_a_photo_that_is_marked_to_be_turned_is_told() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6

    assert look(noisy(1, "JPEG", exif=exif)).turned
    assert not look(noisy(1, "JPEG")).turned


@pytest.mark.slow
def test_many_images_are_looked_at_by_processes_in_order() -> None:
    images = [noisy(1) + bytes([number]) for number in range(100)]
    images[50] = b"broken"
    done: list[int] = []

    found = looks(images, done.append, processes=2)

    assert found == [look(image) for image in images]
    assert (sum(done), bool(found[50].fault)) == (100, True)


def test_convert_tells_the_hash_and_its_file_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a.png")
    path = json_lines(tmp_path / "a.jsonl", row())
    out = tmp_path / "out" / "a.parquet"

    code, told = found_by("convert", "plain", str(path), "--to", "verl", str(out), capsys=capsys)

    assert (code, told["examples"], len(told["sha256"])) == (0, 1, 64)
    assert main(["check", "verl", str(out)]) == 0
