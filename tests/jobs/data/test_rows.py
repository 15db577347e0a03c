"""Rows and their places, whatever the file's form."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.data import rows
from jobs.data.rows import Row
from orchestrator.errors import InputError, NotFound, Problem

from .pictures import json_lines, parquet


def places(found: rows.Rows) -> list[str]:
    return [row.place for row in found]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (None, [0, 1, 2, 3, 4]),
        ("first:2", [0, 1]),
        ("end:2", [3, 4]),
        ("first:99", [0, 1, 2, 3, 4]),
        ("first:30%", [0, 1]),
        ("end:20%", [4]),
        ("first:0", []),
    ],
)
def test_positions(rule: str | None, expected: list[int]) -> None:
    assert list(rows.positions(rule, 5)) == expected


@given(total=st.integers(0, 200), wanted=st.integers(0, 250))
def test_random_rows_are_the_same_at_every_reading_and_in_order(total: int, wanted: int) -> None:
    found = list(rows.positions(f"random:{wanted}", total))

    assert found == list(rows.positions(f"random:{wanted}", total)) == sorted(set(found))
    assert len(found) == min(wanted, total)


def test_items_of_a_json_list_have_the_line_on_which_they_begin(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[\n {"a": 1},\n\n {\n  "a": 2\n },\n 7, {"a": 3}]\n')

    found = rows.read(path, tmp_path)

    assert places(found) == ["a.json:2", "a.json:4", "a.json:7", "a.json:7"]
    assert [row.values["a"] for row in found if isinstance(row, Row)] == [1, 2, 3]
    assert isinstance(found[2], Problem)


@pytest.mark.parametrize(
    "text", ['[{"a": 1}', '[{"a": 1} {"a": 2}]', '[{"a": 1},', '[{"a": nope}]', "[", '{"a": 1}', ""]
)
def test_a_list_that_is_cut_off_is_an_error_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)

    with pytest.raises(InputError, match=r"a\.json:1: not JSON|not a JSON list"):
        rows.read(path, tmp_path)


def test_a_broken_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n{"a": 3}\n')

    found = rows.read(path, tmp_path)

    assert places(found) == ["a.jsonl:1", "a.jsonl:3", "a.jsonl:4"]
    assert isinstance(found[1], Problem)


def test_cells_of_a_table_may_hold_line_breaks_and_places_stay_right(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,"two\nlines"\n3,4\n5\n')

    found = rows.read(path, tmp_path)

    assert places(found) == ["a.csv:2", "a.csv:4", "a.csv:5"]
    assert isinstance(found[0], Row)
    assert found[0].values == {"a": "1", "b": "two\nlines"}
    assert isinstance(found[2], Problem)


def test_cells_may_be_as_long_as_an_encoded_image(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(f"index\timage\n1\t{'A' * 300_000}\n")

    [row] = rows.read(path, tmp_path)

    assert isinstance(row, Row)
    assert len(row.values["image"]) == 300_000


def test_rows_of_parquet_are_numbered_from_zero_and_taken_without_the_others(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", *({"a": number} for number in range(700)))

    assert places(rows.read(path, tmp_path, "end:2")) == ["a.parquet, row 698", "a.parquet, row 699"]


def test_a_file_that_is_not_text_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\xff\n')

    with pytest.raises(InputError, match=r"a\.jsonl:2: is not UTF-8 text"):
        rows.read(path, tmp_path)


def test_several_files_are_joined_by_colons_with_one_folder_of_images_each(tmp_path: Path) -> None:
    first, second = json_lines(tmp_path / "a.jsonl", {}), json_lines(tmp_path / "b.jsonl", {})
    found = rows.files(Path(f"{first}:{second}"), "vlm_r1", [".jsonl"])

    assert found == [first, second]
    assert rows.folders("x:y", found) == [Path("x"), Path("y")]
    assert rows.folders("x", found) == [Path("x"), Path("x")]
    with pytest.raises(InputError, match="3 folders for 2 files"):
        rows.folders("x:y:z", found)


def test_all_files_that_are_not_there_are_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"a\.jsonl, .*b\.jsonl: no such jsonl file\. Get rec_jsons_processed\.zip"):
        rows.files(Path(f"{tmp_path}/a.jsonl:{tmp_path}/b.jsonl"), "vlm_r1", [".jsonl"])
