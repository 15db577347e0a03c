from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import doctor
from orchestrator.profile import Profile
from orchestrator.site_rules import Finding


def topics(found: list[Finding]) -> dict[str, Finding]:
    return {finding.topic: finding for finding in found}


def test_this_machine_can_run_the_tests(tmp_path: Path) -> None:
    found = topics(list(doctor.of_machine({}, tmp_path)))

    assert found["torch"].verdict == "ok"
    assert found["ray"].verdict == "ok"
    assert str(tmp_path) in found["disk"].fact


def test_a_server_that_would_open_its_inside_is_a_warning(tmp_path: Path) -> None:
    found = topics(list(doctor.of_machine({"VLLM_SERVER_DEV_MODE": "1"}, tmp_path)))

    assert found["judge"].verdict == "warning"


def test_a_machine_without_slurm_is_a_problem_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    (only,) = doctor.look(Profile(executor="slurm"), probe=False)

    assert only.verdict == "problem"
    assert "scontrol: there is no such program on the PATH" in only.fact


@pytest.mark.parametrize(
    ("packages", "verdict"),
    [
        pytest.param({"ray": "2.54.1"}, "problem", id="too old"),
        pytest.param({"ray": "2.60.0"}, "ok", id="new enough"),
        pytest.param({"ray": ""}, "warning", id="not there"),
    ],
)
def test_software_on_a_node(packages: dict[str, str], verdict: str) -> None:
    answer = {"host": "n1", "canary": "x", "at": 0.0, "python": "3.11.2", "open_files": 65536, "shared_gb": 64.0}

    found = topics(list(doctor._about_node(answer | {"packages": packages}, "x")))

    assert found["ray"].verdict == verdict
    assert found["shared files"].verdict == "ok"
    assert found["clocks"].verdict == "warning"


def test_a_node_that_sees_another_file_is_a_problem() -> None:
    answer = {"host": "n1", "canary": "old", "at": 0.0, "python": "3.11.2", "open_files": 65536, "shared_gb": 64.0}

    found = topics(list(doctor._about_node(answer | {"packages": {}}, "new")))

    assert found["shared files"].verdict == "problem"
