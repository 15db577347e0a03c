"""Checkpoints: committed in full, verified on load, never lost."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.grpo import checkpoint
from jobs.grpo.checkpoint import State
from jobs.grpo.prompts import Cursor
from orchestrator.errors import ConflictError

FILES = [
    "model/model-00001-of-00002.safetensors",
    "model/model-00002-of-00002.safetensors",
    "model/config.json",
    "optimizer/model-00001-of-00002.safetensors",
    "optimizer/model-00002-of-00002.safetensors",
    "state.json",
    "MANIFEST.json",
]


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


def ranks_save(root: Path, step: int) -> Path:
    """Save what ranks write: weights and moments in two parts each; return the checkpoint."""
    folder = checkpoint.begin(root, step)
    for name in FILES[:-2]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"{name} of step {step}")
    return checkpoint.commit(folder, State(step=step, cursor=Cursor(epoch=1, offset=step)), 1, lambda: None)


def flip_first(path: Path, _older: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def flip_last(path: Path, _older: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x80
    path.write_bytes(content)


def truncate(path: Path, _older: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path, _older: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path, _older: Path) -> None:
    path.write_bytes(path.read_bytes() + b"{}")


def remove(path: Path, _older: Path) -> None:
    path.unlink()


def of_another_step(path: Path, older: Path) -> None:
    path.write_bytes(older.read_bytes())


DAMAGES = [flip_first, flip_last, truncate, empty, lengthen, remove, of_another_step]


@pytest.fixture(scope="module")
def saved_twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    for step in (10, 20):
        ranks_save(root, step)
    return root


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_kept_aside_and_the_one_before_is_used(
    saved_twice: Path, tmp_path: Path, file: str, damage: Callable[[Path, Path], None]
) -> None:
    root = shutil.copytree(saved_twice, tmp_path / "checkpoints")
    damage(root / "step_00000020" / file, root / "step_00000010" / file)

    found = checkpoint.newest(root)

    assert found is not None
    assert found.state.step == 10
    assert checkpoint.find_fault(found.folder) is None
    assert checkpoint.steps(root) == [10]
    assert len(list(root.glob("step_00000020.bad-*"))) == 1


def test_every_checkpoint_that_is_damaged_is_passed_over(tmp_path: Path) -> None:
    older = ranks_save(tmp_path, 10)
    for step, damage in ((20, flip_first), (30, remove), (40, empty)):
        damage(ranks_save(tmp_path, step) / FILES[0], older / FILES[0])

    found = checkpoint.newest(tmp_path)

    assert found is not None
    assert found.state.step == 10
    assert len(list(tmp_path.glob("*.bad-*"))) == 3


def test_if_all_are_damaged_there_is_none_and_all_are_kept(tmp_path: Path) -> None:
    for step in (10, 20):
        remove(ranks_save(tmp_path, step) / FILES[0], tmp_path)

    assert checkpoint.newest(tmp_path) is None
    assert len(list(tmp_path.glob("*.bad-*"))) == 2


def test_the_checkpoint_of_another_step_under_its_name_is_none(tmp_path: Path) -> None:
    shutil.copytree(ranks_save(tmp_path, 10), tmp_path / "step_00000020")

    found = checkpoint.newest(tmp_path)

    assert found is not None
    assert found.folder.name == "step_00000010"


@pytest.mark.parametrize(
    "manifest",
    [
        [],
        {},
        {"step": 20, "files": []},
        {"step": 20, "files": {}},
        {"step": 20, "generation": 1, "files": {"state.json": {"bytes": 10}}},
        {"step": 20, "generation": 1, "files": {"state.json": "3f"}},
        {"step": "20", "generation": 1, "files": {}},
    ],
    ids=str,
)
def test_a_manifest_that_says_too_little_vouches_for_nothing(tmp_path: Path, manifest: object) -> None:
    ranks_save(tmp_path, 10)
    (ranks_save(tmp_path, 20) / "MANIFEST.json").write_text(json.dumps(manifest))

    found = checkpoint.newest(tmp_path)

    assert found is not None
    assert found.state.step == 10


def test_no_flipped_bit_of_a_manifest_makes_it_vouch_for_something_else(tmp_path: Path) -> None:
    folder = ranks_save(tmp_path, 20)
    manifest = folder / "MANIFEST.json"
    whole = manifest.read_bytes()
    generation = whole.index(b'"generation"'), whole.index(b'"files"')

    for byte in range(len(whole)):
        damaged = bytearray(whole)
        damaged[byte] ^= 1 << byte % 8
        manifest.write_bytes(damaged)
        # Who wrote it is told to people only, and white space to nobody.
        harmless = byte in range(*generation) or whole[byte : byte + 1].isspace()
        assert checkpoint.find_fault(folder) is not None or harmless, f"byte {byte}: {bytes(damaged)!r}"


def test_files_that_ranks_have_hashed_are_vouched_for_by_their_digests(tmp_path: Path) -> None:
    folder = checkpoint.begin(tmp_path, 10)
    (folder / "model").write_text("weights")
    elsewhere = {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}

    path = checkpoint.commit(folder, State(step=10), 1, lambda: None, {"model": elsewhere})

    assert checkpoint.find_fault(path) is None
    flip_first(path / "model", path)
    assert checkpoint.find_fault(path) is not None


@pytest.mark.parametrize("arrived", [None, "weig"])
def test_a_file_that_a_rank_wrote_and_that_has_not_arrived_stops_the_commit(
    tmp_path: Path, arrived: str | None
) -> None:
    """Folders of a network filesystem show what another node wrote with a delay."""
    ranks_save(tmp_path, 10)
    folder = checkpoint.begin(tmp_path, 20)
    if arrived is not None:
        (folder / "model").write_text(arrived)
    elsewhere = {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}

    with pytest.raises(OSError, match="model"):
        checkpoint.commit(folder, State(step=20), 1, lambda: None, {"model": elsewhere})

    assert checkpoint.steps(tmp_path) == [10]


def test_a_filesystem_too_small_for_another_checkpoint_is_told_before_it_is_full(tmp_path: Path) -> None:
    with (ranks_save(tmp_path, 10) / FILES[0]).open("ab") as file:
        file.truncate(1 << 42)  # A hole: no disk of a test has 4 TB to spare.

    with pytest.raises(checkpoint.NoSpace, match="GB free"):
        checkpoint.begin(tmp_path, 20)

    assert [path.name for path in tmp_path.iterdir()] == ["step_00000010"]


def test_what_a_killed_save_left_makes_room_for_the_next(tmp_path: Path) -> None:
    abandoned = checkpoint.begin(tmp_path, 10)
    (abandoned / "weights").write_text("half")

    folder = checkpoint.begin(tmp_path, 10)

    assert list(tmp_path.iterdir()) == [folder]


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
