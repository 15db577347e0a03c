from __future__ import annotations

import stat
from pathlib import Path

import pytest

from jobs.local_folder import LocalFolder


@pytest.fixture(autouse=True)
def _disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "disk"))


def test_nobody_else_can_look_into_it_and_it_goes(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path / "notes", "ray")
    (folder.path / "socket").touch()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700

    folder.close()

    assert list((tmp_path / "disk").iterdir()) == []
    assert list((tmp_path / "notes").iterdir()) == []


def test_what_a_killed_process_left_on_this_node_is_removed_by_the_next(tmp_path: Path) -> None:
    killed = LocalFolder(tmp_path / "notes", "ray")

    LocalFolder(tmp_path / "notes", "ray")

    assert not killed.path.exists()


def test_folders_of_other_names_and_nodes_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = LocalFolder(tmp_path / "notes", "ray"), LocalFolder(tmp_path / "notes", "ray1")
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")

    LocalFolder(tmp_path / "notes", "ray")

    assert ours.path.exists()
    assert other.path.exists()
