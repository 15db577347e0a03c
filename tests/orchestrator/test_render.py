from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orchestrator import plan, render, slurm_options
from orchestrator.errors import InputError
from orchestrator.plan import Placement, Plan, Restarts, Role
from orchestrator.slurm_options import SiteOptions, SlurmOptions

GOLDEN = Path(__file__).parent / "golden" / "submit.sh"


def a_plan(environment: dict[str, str] | None = None) -> Plan:
    return Plan(
        name="geo3k-tiny",
        recipe="recipes/geo3k-tiny.yaml",
        recipe_sha256="0" * 64,
        cluster="local",
        executor="local",
        placement=Placement(kind="local", why="Because."),
        time_limit_s=3600,
        restarts=Restarts(),
        roles=(Role(name="judge", job="judge", kind="service"), Role(name="train", job="grpo", kind="batch")),
        profile={"executor": "local", "environment": environment or {}},
    )


def test_the_script_is_the_golden_one() -> None:
    site = render.Site(checkout=Path("/home/me/a checkout"), python=Path("/venv/bin/python"), run_dir=Path("/runs/x"))

    script = render.script(a_plan({"SCRATCH": "/scratch/$USER"}), site)

    assert script == GOLDEN.read_text(), f"If the change is meant, write this to {GOLDEN}:\n{script}"


def test_nothing_in_a_name_reaches_the_shell(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = f"$(touch {canary}); `touch {canary}` '\n touch {canary} #"
    site = render.Site(checkout=tmp_path, python=Path("/bin/true"), run_dir=Path(f"/runs/{evil}"))

    ended = subprocess.run(["bash", "-c", render.script(a_plan({"A": evil}), site)], check=False, timeout=10)

    assert ended.returncode == 0
    assert not canary.exists()


def test_the_same_plan_gives_the_same_script() -> None:
    site = render.Site(checkout=Path("/c"), python=Path("/p"), run_dir=Path("/r"))

    assert render.script(a_plan(), site) == render.script(plan.from_json(plan.to_json(a_plan())), site)


def test_a_pyxis_step_is_in_its_container_as_a_whole() -> None:
    options = slurm_options.read(
        {
            "container": {
                "engine": "pyxis",
                "image": "nvcr.io#nvidia/pytorch:25.01-py3",
                "python": "/opt/bin/python",
                "mounts": ["/data", "/scratch:/tmp", "/models:/models:ro"],
                "options": ["--no-container-mount-home"],
            }
        }
    )

    assert render.step_options(options, checkout=Path("/c"), run_dir=Path("/runs/a b")) == [
        "--container-image=nvcr.io#nvidia/pytorch:25.01-py3",
        "--container-mounts=/c:/c,/runs/a b:/runs/a b,/data:/data,/scratch:/tmp,/models:/models:ro",
        "--container-workdir=/c",
        "--no-container-mount-home",
    ]
    assert render.step_prefix(options, checkout=Path("/c"), run_dir=Path("/runs/a b")) == []
    assert render.step_interpreter(options, "/venv/bin/python") == "/opt/bin/python"
    assert render.role_interpreter(options, "/venv/bin/python") == "/opt/bin/python"


def test_apptainer_wraps_the_program_alone() -> None:
    options = slurm_options.read(
        {
            "container": {
                "engine": "apptainer",
                "image": "/images/a.sif",
                "mounts": ["/data", "/scratch:/tmp"],
                "options": ["--no-home"],
            }
        }
    )

    assert render.step_options(options, checkout=Path("/c"), run_dir=Path("/r")) == []
    assert render.step_prefix(options, checkout=Path("/c"), run_dir=Path("/r")) == [
        *("apptainer", "exec", "--nv", "--bind", "/c:/c", "--bind", "/r:/r", "--bind", "/data"),
        *("--bind", "/scratch:/tmp", "--pwd", "/c", "--no-home", "/images/a.sif"),
    ]
    assert render.step_interpreter(options, "/venv/bin/python") == "/venv/bin/python"
    assert render.role_interpreter(options, "/venv/bin/python") == "python3"


def test_a_folder_that_cannot_be_mounted_is_refused() -> None:
    options = slurm_options.read({"container": {"engine": "apptainer", "image": "/a.sif"}})

    with pytest.raises(InputError, match="cannot be shown in a container"):
        render.step_prefix(options, checkout=Path("/a:b"))


def test_a_role_without_options_is_not_wrapped() -> None:
    options = SlurmOptions(partition="gpu")

    assert render.step_options(options) == render.step_prefix(options) == []
    assert render.role_interpreter(options, "/p") == render.step_interpreter(options, "/p") == "/p"


def test_a_role_s_own_interpreter_runs_its_program() -> None:
    assert render.role_interpreter(SlurmOptions(python="/opt/python"), "/p") == "/opt/python"
    assert render.role_interpreter(SlurmOptions(virtual_environment="/v"), "/p") == "/v/bin/python"


def wrapped(options: SiteOptions, *program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [*render.step_prefix(options), *program]
    known = {"PATH": "/usr/bin:/bin"} | environment
    return subprocess.run(argv, env=known, capture_output=True, text=True, check=False, timeout=10)


def test_modules_and_lines_of_the_profile_come_before_the_program(tmp_path: Path) -> None:
    init = tmp_path / "init" / "bash"
    init.parent.mkdir()
    init.write_text('module() { export LOADED="${LOADED:-}$2;"; }\n')
    options = SiteOptions(modules=("a/1", "b"), setup=("export SET=$LOADED",), virtual_environment="/a venv")

    ended = wrapped(
        options, "sh", "-c", 'echo "$SET $VIRTUAL_ENV $PATH $1"', "sh", "$(x) 'y'", MODULESHOME=str(tmp_path)
    )

    assert ended.stderr == ""
    assert ended.stdout == "a/1;b; /a venv /a venv/bin:/usr/bin:/bin $(x) 'y'\n"


def test_a_module_that_cannot_be_loaded_ends_the_role() -> None:
    ended = wrapped(SiteOptions(modules=("no-such",)), "echo", "started")

    assert (ended.returncode, ended.stdout) == (1, "")
    assert "module no-such cannot be loaded." in ended.stderr


def test_what_wraps_a_program_makes_way_for_it() -> None:
    ended = wrapped(SiteOptions(setup=("echo $$",)), "sh", "-c", "echo $$")

    first, second = ended.stdout.split()
    assert first == second
