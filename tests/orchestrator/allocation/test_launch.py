from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.allocation import launch
from orchestrator.plan import Role
from orchestrator.run_directory import RunDirectory

RUN = RunDirectory(Path("/runs/a"))


@pytest.mark.parametrize(
    ("job", "module"),
    [("grpo", "jobs.grpo"), ("eval", "eval.run"), ("my.package", "my.package")],
)
def test_a_job_is_a_module(job: str, module: str) -> None:
    assert launch.command(RUN, Role(name="train", job=job, kind="batch")) == [
        sys.executable,
        "-m",
        module,
        "--run-dir",
        "/runs/a",
        "--role",
        "train",
    ]


def test_a_service_on_a_cpu_knows_who_it_is() -> None:
    role = Role(name="judge", job="judge", kind="service", environment={"A": "1"})
    assert launch.environment({"PATH": "/bin", "SUBMITIT_FOLDER": "x"}, RUN, role, replica=2, generation=3) == {
        "PATH": "/bin",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "ORCH_RUN_DIR": "/runs/a",
        "ORCH_ROLE": "judge",
        "ORCH_GENERATION": "3",
        "ORCH_REPLICA": "2",
        "A": "1",
    }


def test_a_recipe_may_ask_for_more_threads() -> None:
    role = Role(name="train", job="grpo", kind="batch", environment={"OMP_NUM_THREADS": "4"})
    assert launch.environment({}, RUN, role, replica=0, generation=1)["OMP_NUM_THREADS"] == "4"


def test_a_role_with_a_gpu_keeps_the_sites_threads() -> None:
    role = Role(name="train", job="grpo", kind="batch", gpus_per_node=8)
    environment = launch.environment({"OMP_NUM_THREADS": "12"}, RUN, role, replica=0, generation=1)
    assert environment["OMP_NUM_THREADS"] == "12"
    assert "ORCH_REPLICA" not in environment
