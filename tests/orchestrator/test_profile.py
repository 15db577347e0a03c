from __future__ import annotations

import re
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
        "  bad.yaml:3: partiton: No such key. Known keys: "
        "crash_pause_s, environment, executor, hetjobs, node, roles, signal_s, slurm, time_limit."
    )


def test_examples_and_the_sandbox_are_no_sites(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("example-slurm", "sandbox"):
        (folder / f"{name}.yaml").write_text("executor: slurm\n")
    with_slurm(folder, monkeypatch)
    assert profile.default(folder) == "local"

    (folder / "site.yaml").write_text("executor: slurm\n")
    assert profile.default(folder) == "site"


def problems(folder: Path, text: str) -> list[str]:
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        profile.load("bad", folder)
    return [line.strip().replace(f"{folder}/", "") for line in str(caught.value).splitlines()[1:]]


def test_all_problems_of_a_site_are_told_at_once(folder: Path) -> None:
    text = """\
executor: slurm
slurm:
  partition: "a b"
  extra: [--requeue]
  environment: {HF_TOKEN: x}
roles:
  judge: {nodes: 0, container: {engine: docker, image: a}, environment: {ORCH_ROLE: x}, time_limit: 4:00}
"""

    found = problems(folder, text)

    assert [problem.partition(": ")[0] + problem.partition(": ")[2].partition(": ")[0] for problem in found] == [
        "bad.yaml:3slurm.partition",
        "bad.yaml:4slurm.extra",
        "bad.yaml:7roles.judge.container.engine",
        "bad.yaml:7roles.judge.nodes",
        "bad.yaml:7roles.judge.time_limit",
        "bad.yaml:5slurm.environment.HF_TOKEN",
        "bad.yaml:7roles.judge.environment.ORCH_ROLE",
    ]


def test_a_profile_of_one_machine_says_nothing_to_slurm(folder: Path) -> None:
    assert problems(folder, "executor: local\nslurm: {partition: gpu}\n") == [
        "bad.yaml:1: slurm: only Slurm can use this. Write executor: slurm, or leave it out."
    ]


EXAMPLE = Path(__file__).parents[2] / "cluster" / "example-slurm.yaml"
SWITCHED_OFF = re.compile(r"^( *)#(?! )", re.MULTILINE)


def test_the_example_is_read_as_it_stands_and_with_all_that_is_commented_out(folder: Path) -> None:
    text = EXAMPLE.read_text()
    (folder / "whole.yaml").write_text(SWITCHED_OFF.sub(r"\1", text))

    as_it_stands = profile.load("example-slurm", EXAMPLE.parent)
    whole = profile.load("whole", folder)

    assert as_it_stands.slurm.partition == "gpu"
    assert set(profile.SlurmOptions.model_fields) - whole.slurm.model_fields_set == {
        "python",
        "container",
        "environment",
    }
    assert whole.roles["judge"].container is not None
    assert whole.roles["judge"].time_limit_s == 12 * 3600
