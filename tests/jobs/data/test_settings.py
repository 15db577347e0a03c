"""What can be said of data before anything starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from eval.target import Kind, System
from jobs import data
from jobs.data.settings import HOW_TO_GET, Options, Resize, absent


def test_an_absent_file_is_named_with_the_way_to_get_it() -> None:
    (sentence,) = absent("data.path", "geo3k", "nowhere/train.parquet")

    assert sentence.startswith("data.path: There is no file 'nowhere/train.parquet'. Get plain Geometry3K with ")


def test_a_file_that_is_there_is_no_problem(tmp_path: Path) -> None:
    assert absent("data.path", "geo3k", str(tmp_path)) == []


def test_a_file_that_a_role_will_make_is_no_problem() -> None:
    assert absent("data.path", "geo3k", "{tiny.train_data}") == []


def test_of_joined_files_those_that_are_absent_are_named(tmp_path: Path) -> None:
    there = tmp_path / "a.jsonl"
    there.touch()

    assert absent("data.path", "vlm_r1", f"{there}:{tmp_path}/b.jsonl") == [
        f"data.path: There is no file '{tmp_path}/b.jsonl'. {HOW_TO_GET['vlm_r1']}"
    ]


def test_every_source_says_where_its_files_come_from() -> None:
    assert {name.replace("perception_r1", "geo3k") for name in data.SOURCES} == set(HOW_TO_GET)
    assert all(callable(data.find(name)) for name in data.SOURCES)


def test_kinds_and_units_are_those_of_targets() -> None:
    fields = Options.model_fields

    assert get_args(get_args(fields["kind"].annotation)[0]) == get_args(Kind)
    assert get_args(get_args(fields["coordinates"].annotation)[0]) == get_args(System)


def test_settings_load_nothing_heavy() -> None:
    heavy = "numpy", "pyarrow", "PIL", "torch"
    code = f"import sys, jobs.data.settings; print([name for name in {heavy} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"


def test_a_resizing_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_pixels=100 is less than min_pixels=3136"):
        Resize(max_pixels=100)
