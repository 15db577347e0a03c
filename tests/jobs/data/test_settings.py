"""What can be said of data before anything starts."""

from __future__ import annotations

from pathlib import Path

from jobs.data.settings import absent


def test_an_absent_file_is_named_with_the_way_to_get_it() -> None:
    (sentence,) = absent("data.path", "geo3k", "nowhere/train.parquet")

    assert sentence.startswith("data.path: There is no file 'nowhere/train.parquet'. Get plain Geometry3K with ")


def test_a_file_that_is_there_is_no_problem(tmp_path: Path) -> None:
    assert absent("data.path", "geo3k", str(tmp_path)) == []


def test_a_file_that_a_role_will_make_is_no_problem() -> None:
    assert absent("data.path", "geo3k", "{tiny.train_data}") == []
