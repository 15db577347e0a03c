from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import submission_environment
from orchestrator.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    for name in ("SLURM_JOB_ID", "SBATCH_QOS", "SUBMITIT_FOLDER", "ORCH_ROLE", "PWD", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "of here")
    monkeypatch.setenv("ORCH_CACHE", "/cache")
    monkeypatch.setenv("HF_TOKEN", "s3cret")
    monkeypatch.setenv("PATH", "/mine:/usr/bin")
    made = RunDirectory(tmp_path / "run")
    submission_environment.write(made)
    return made


def test_what_belongs_to_this_shell_or_allocation_is_left_out(run: RunDirectory) -> None:
    kept = submission_environment.read(run)

    assert kept["ORCH_CACHE"] == "/cache"
    assert kept["HF_TOKEN"] == "s3cret"
    assert not {"SLURM_JOB_ID", "SBATCH_QOS", "SUBMITIT_FOLDER", "ORCH_ROLE", "PWD", "CUDA_VISIBLE_DEVICES"} & set(kept)


def test_the_file_is_for_its_owner_alone(run: RunDirectory) -> None:
    assert (run.secrets / "environment.json").stat().st_mode & 0o777 == 0o600


def test_what_slurm_and_the_script_have_set_stays(run: RunDirectory) -> None:
    environment = {"HF_TOKEN": "of the profile", "PATH": "/module/bin:/usr/bin", "SLURM_JOB_ID": "7"}

    submission_environment.restore(run, environment)

    assert environment["HF_TOKEN"] == "of the profile"
    assert environment["SLURM_JOB_ID"] == "7"
    assert environment["ORCH_CACHE"] == "/cache"


def test_folders_of_programs_are_joined_the_scripts_first(run: RunDirectory) -> None:
    environment = {"PATH": "/module/bin:/usr/bin"}

    submission_environment.restore(run, environment)

    assert environment["PATH"] == "/module/bin:/usr/bin:/mine"


def test_a_script_submitted_by_hand_brings_nothing(tmp_path: Path) -> None:
    assert submission_environment.read(RunDirectory(tmp_path / "other")) == {}
