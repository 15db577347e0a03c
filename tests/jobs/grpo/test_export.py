"""A checkpoint handed on as a Hugging Face folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from jobs import vlm
from jobs.grpo import checkpoint, export
from jobs.grpo.checkpoint import State
from orchestrator.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path, policy_folder: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.create()
    for step in (5, 10):
        folder = checkpoint.begin(made.checkpoints, step)
        shutil.copytree(policy_folder, folder / checkpoint.MODEL_FOLDER)
        checkpoint.commit(folder, State(step=step), 1, lambda: None)
    return made


def test_the_newest_checkpoint_becomes_a_model_in_bfloat16(
    run: RunDirectory, policy_folder: Path, tmp_path: Path
) -> None:
    assert export.main([str(run.path), str(tmp_path / "out")]) == 0

    exported = vlm.load_model(tmp_path / "out", dtype="bfloat16").state_dict()
    trained = vlm.load_model(policy_folder).state_dict()
    assert {value.dtype for value in exported.values()} == {torch.bfloat16}
    assert all(torch.equal(exported[name], trained[name].bfloat16()) for name in trained)
    assert vlm.load_processor(tmp_path / "out") is not None
    assert not list(tmp_path.glob(".out.*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--step", "7"], "no checkpoint of step 7. There are: 5, 10.", id="no such step"),
        pytest.param(["--step", "5"], "does not have the SHA-256", id="damaged"),
    ],
)
def test_what_cannot_be_exported_is_said(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    damaged = run.checkpoints / checkpoint.folder_name(5) / checkpoint.MODEL_FOLDER / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)

    assert export.main([str(run.path), str(tmp_path / "out"), *arguments]) != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_left_alone(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert export.main([str(run.path), str(tmp_path / "out")]) == 3
    assert not list((tmp_path / "out").iterdir())
