from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import data
from jobs.data import geo3k
from orchestrator.errors import InputError, NotFound


def picture(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), colour).save(file, format="PNG")
    return file.getvalue()


def write(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def row(**changes: Any) -> dict[str, Any]:
    return {
        "problem": "<image>Find x.",
        "answer": "5",
        "images": [{"bytes": picture(), "path": None}],
        "visual_key_info": "<info1>AB is 3</info1>",
        **changes,
    }


def test_a_row_of_system_a_becomes_an_example(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", row(id="geo-7"))

    [example] = data.load("geo3k", path)

    assert example == data.Example(
        id="geo-7",
        problem="<image>Find x.",
        answer="5",
        images=(picture(),),
        visual_key_info="<info1>AB is 3</info1>",
    )


def test_plain_geometry3k_has_neither_annotations_nor_ids(tmp_path: Path) -> None:
    plain = {"images": [{"bytes": picture(), "path": "a.png"}], "problem": "<image>Find x.", "answer": "5"}
    path = write(tmp_path / "a.parquet", {**plain, "choices": ["1", "5"], "ground_truth": "B"})

    [example] = geo3k.load(path)

    assert example.visual_key_info is None
    assert len(example.id) == 16


def test_images_may_be_bytes_or_paths_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(picture("blue"))

    by_path = geo3k.load(write(tmp_path / "a.parquet", row(images=["images/1.png"])))
    by_bytes = geo3k.load(write(tmp_path / "b.parquet", row(images=[picture("blue")])))

    assert by_path[0].images == by_bytes[0].images == (picture("blue"),)


def test_a_missing_placeholder_is_put_in_front(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", row(problem="Find x.", images=[picture(), picture("blue")]))

    assert geo3k.load(path)[0].problem == "<image><image>Find x."


def test_an_empty_annotation_is_none(tmp_path: Path) -> None:
    assert geo3k.load(write(tmp_path / "a.parquet", row(visual_key_info="")))[0].visual_key_info is None


def test_ids_are_stable_and_unique_even_for_repeated_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", row(), row(), row(answer="6"))

    first, second, third = (example.id for example in geo3k.load(path))

    assert second == f"{first}-2"
    assert third not in (first, second)
    assert [example.id for example in geo3k.load(path)] == [first, second, third]


def test_all_bad_rows_are_listed_with_their_numbers(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        row(id="1"),
        row(id="2", answer=""),
        row(id="3", images=[{"bytes": b"no image", "path": None}]),
        row(id="4", problem="<image><image>Find x."),
        row(id="1"),
    )

    with pytest.raises(InputError) as raised:
        geo3k.load(path)

    message = str(raised.value)
    assert "4 problems" in message
    assert "row 1: answer must be a text, got ''." in message
    assert "row 2, image 0: cannot identify image file" in message
    assert "row 3: problem has 2 <image> for 1 image(s)." in message
    assert "row 4: Its id '1' is taken by an earlier row." in message


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="huggingface-cli download --repo-type dataset hiyouga/geometry3k"):
        geo3k.load(tmp_path / "none.parquet")


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"question": "x", "answer": "5"})

    with pytest.raises(InputError, match=r"No column problem, images\. The file has: question, answer\."):
        geo3k.load(path)


def test_a_file_that_is_not_parquet_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("hello")

    with pytest.raises(InputError, match="Not a parquet file"):
        geo3k.load(path)


def test_a_folder_of_one_split_is_read_in_order_and_a_mixed_one_refused(tmp_path: Path) -> None:
    write(tmp_path / "train-1.parquet", row(answer="2"))
    write(tmp_path / "train-0.parquet", row(answer="1"))

    assert [example.answer for example in geo3k.load(tmp_path)] == ["1", "2"]

    write(tmp_path / "test-0.parquet", row())
    with pytest.raises(InputError, match="mixes the splits test, train"):
        geo3k.load(tmp_path)
