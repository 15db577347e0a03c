from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import profile
from orchestrator.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "local.yaml").write_text("executor: local\n")
    return tmp_path


def with_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program called sbatch on the path, as on a login node."""
    sbatch = folder / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\n")
    sbatch.chmod(0o700)
    monkeypatch.setenv("PATH", str(sbatch.parent))


def test_without_slurm_the_profile_is_local(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "site.yaml").write_text("executor: slurm\n")
    monkeypatch.setenv("PATH", str(folder / "nothing"))

    assert profile.default(folder) == "local"


def test_with_slurm_the_only_other_profile_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "site.yaml").write_text("executor: slurm\n")
    with_slurm(folder, monkeypatch)

    assert profile.default(folder) == "site"


def test_between_two_sites_we_do_not_guess(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "one.yaml").write_text("executor: slurm\n")
    (folder / "two.yaml").write_text("executor: slurm\n")
    with_slurm(folder, monkeypatch)

    with pytest.raises(InputError, match=r"say which site it is\. Profiles: one, two, local"):
        profile.default(folder)


def test_the_environment_chooses_before_we_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCH_CLUSTER", "mine")

    assert profile.default(folder) == "mine"


def test_an_unknown_profile_is_refused_with_the_nearest(folder: Path) -> None:
    with pytest.raises(InputError, match=r"there is no profile .*locl\.yaml\. Did you mean 'local'\?"):
        profile.load("locl", folder)


def test_a_name_cannot_leave_the_folder(folder: Path) -> None:
    (folder.parent / "outside.yaml").write_text("executor: local\n")

    with pytest.raises(InputError, match="there is no profile"):
        profile.load("../outside", folder)


def test_a_wrong_profile_is_refused_with_file_and_line(folder: Path) -> None:
    (folder / "bad.yaml").write_text("executor: local\nnode: {cpus: 0}\npartiton: x\n")

    with pytest.raises(InputError) as caught:
        profile.load("bad", folder)

    assert str(caught.value).replace(f"{folder}/", "") == (
        "bad.yaml: 2 problems.\n"
        "  bad.yaml:2: node.cpus: Input should be greater than or equal to 1, got 0.\n"
        "  bad.yaml:3: partiton: No such key. Known keys: environment, executor, node."
    )
