from __future__ import annotations

from pathlib import Path

import pytest

from jobs.tiny import cache


def fill(folder: Path) -> bool:
    (folder / "file").write_text("made")
    return True


def test_the_name_changes_with_any_setting() -> None:
    assert cache.name({"seed": 1}) == cache.name({"seed": 1})
    assert cache.name({"seed": 1}) != cache.name({"seed": 2})


def test_the_name_changes_with_a_source_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    monkeypatch.setattr(cache, "SOURCES", ("code",))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("x = 1")
    before = cache.name({})

    (tmp_path / "code" / "a.py").write_text("x = 2")

    assert cache.name({}) != before


def test_a_build_appears_whole_and_alone(tmp_path: Path) -> None:
    assert cache.build(tmp_path / "tiny" / "abc", fill)

    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["abc"]
    assert (tmp_path / "tiny" / "abc" / "file").read_text() == "made"


def test_a_build_that_stops_early_or_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(_folder: Path) -> bool:
        raise RuntimeError("no")

    assert not cache.build(tmp_path / "abc", lambda _folder: False)
    with pytest.raises(RuntimeError):
        cache.build(tmp_path / "abc", fail)

    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_builds_wins(tmp_path: Path) -> None:
    def slower(folder: Path) -> bool:
        cache.build(tmp_path / "abc", fill)
        (folder / "file").write_text("late")
        return True

    assert cache.build(tmp_path / "abc", slower)

    assert (tmp_path / "abc" / "file").read_text() == "made"
    assert [path.name for path in tmp_path.iterdir()] == ["abc"]


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCH_CACHE", str(tmp_path))

    assert cache.root() == tmp_path / "tiny"
