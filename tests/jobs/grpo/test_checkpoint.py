"""Checkpoints: committed in full, verified on load, never lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.grpo import checkpoint
from jobs.grpo.checkpoint import State
from jobs.grpo.prompts import Cursor
from orchestrator.errors import ConflictError


def save(root: Path, step: int, content: str = "weights") -> Path:
    folder = checkpoint.begin(root, step)
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text(content)
    return checkpoint.commit(folder, State(step=step, cursor=Cursor(epoch=1, offset=step)), 1, lambda: None)


def test_a_committed_checkpoint_gives_its_state_back(tmp_path: Path) -> None:
    save(tmp_path, 10)

    found = checkpoint.newest(tmp_path)

    assert found is not None
    assert found.folder == tmp_path / "step_00000010"
    assert found.state == State(step=10, cursor=Cursor(epoch=1, offset=10))


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "nothing") is None


def flip(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("file", ["model/weights", "state.json", "MANIFEST.json"])
def test_a_damaged_checkpoint_is_kept_aside_and_the_one_before_is_used(
    tmp_path: Path, file: str, damage: Callable[[Path], None]
) -> None:
    save(tmp_path, 10)
    damage(save(tmp_path, 20) / file)

    found = checkpoint.newest(tmp_path)

    assert found is not None
    assert found.state.step == 10
    assert len(list(tmp_path.glob("step_00000020.bad-*"))) == 1


def test_a_save_that_was_cut_short_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 10)
    (checkpoint.begin(tmp_path, 20) / "model").mkdir()

    found = checkpoint.newest(tmp_path)

    assert found is not None
    assert found.state.step == 10


def test_a_newer_generation_stops_the_commit_and_leaves_nothing(tmp_path: Path) -> None:
    folder = checkpoint.begin(tmp_path, 10)

    def taken_over() -> None:
        raise ConflictError("attempt 2 has begun")

    with pytest.raises(ConflictError):
        checkpoint.commit(folder, State(step=10), 1, taken_over)

    assert checkpoint.newest(tmp_path) is None


def test_pruning_keeps_the_newest_and_the_round_ones(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        save(tmp_path, step)
    checkpoint.begin(tmp_path, 60)

    deleted = checkpoint.prune(tmp_path, keep_last=2, keep_every=20)

    assert deleted == [10, 30]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000020", "step_00000040", "step_00000050"]


def test_a_step_saved_again_does_not_overwrite_the_first(tmp_path: Path) -> None:
    save(tmp_path, 10, "first")

    save(tmp_path, 10, "second")

    assert (tmp_path / "step_00000010" / "model" / "weights").read_text() == "second"
    (aside,) = tmp_path.glob("step_00000010.bad-*")
    assert (aside / "model" / "weights").read_text() == "first"
