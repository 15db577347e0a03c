from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator import plan, recipe, render, sbatch
from orchestrator.errors import InputError
from orchestrator.plan import Plan
from orchestrator.profile import Profile

GOLDEN = Path(__file__).parent / "golden"
RECIPE = """\
name: geo3k
roles:
  judge: {job: judge, gpus_per_node: 8, cpus_per_node: 32, memory_gb: 100.5}
  train: {job: grpo, needs: judge, nodes: 2, gpus_per_node: 8, cpus_per_node: 32, memory_gb: 100.5}
time_limit: 36h
"""
SITE = render.Site(
    checkout=Path("/home/me/a checkout"), python=Path("/venv/bin/python"), run_dir=Path("/runs/100%/geo3k")
)
EVERYTHING = {
    "environment": {"HF_HOME": "/shared/$USER"},
    "signal_s": 300,
    "slurm": {
        "partition": "gpu",
        "account": "us",
        "qos": "normal",
        "constraint": "nvlink&ib",
        "reservation": "r1",
        "exclude": ["n1", "n[3-5]"],
        "gpu_type": "a100",
        "exclusive": True,
        "extra": ["--licenses=scratch"],
        "modules": ["gcc/13", "cuda/12.8"],
        "setup": "ulimit -n 65536\nexport A='b'",
        "virtual_environment": "/shared/a venv",
        "environment": {"NCCL_DEBUG": "WARN"},
    },
}


def planned(folder: Path, placement: str = "auto", **site: Any) -> Plan:
    path = folder / "r.yaml"
    path.write_text(RECIPE)
    read = recipe.load(path, [f"placement={placement}"])
    profile = Profile.model_validate({"executor": "slurm", **site})
    return plan.build(read, profile, cluster="hpc", source="r.yaml", sha256="0" * 64)


@pytest.mark.parametrize(
    ("name", "placement", "site", "group"),
    [
        pytest.param("slice.sbatch", "slice", EVERYTHING, 0, id="slice"),
        pytest.param(
            "hetjob.sbatch", "auto", {"roles": {"judge": {"partition": "h100", "gpu_type": "h100"}}}, 0, id="hetjob"
        ),
        pytest.param("pair.sbatch", "pair", {"roles": {"judge": {"time_limit": "12h"}}}, 0, id="pair, trainer"),
        pytest.param("pair-judge.sbatch", "pair", {"roles": {"judge": {"time_limit": "12h"}}}, 1, id="pair, judge"),
    ],
)
def test_the_script_is_the_golden_one(
    tmp_path: Path, name: str, placement: str, site: dict[str, Any], group: int
) -> None:
    the_plan = planned(tmp_path, placement, **site)

    script = sbatch.script(the_plan, SITE, group)

    golden = GOLDEN / name
    shown = script.replace(plan.to_json(the_plan), "(plan.json)\n")
    assert shown == golden.read_text(), f"If the change is meant, write this to {golden}:\n{shown}"


def test_a_pair_is_two_scripts(tmp_path: Path) -> None:
    scripts = render.scripts(planned(tmp_path, "pair"), SITE)

    assert list(scripts) == ["submit.sbatch", "submit-judge.sbatch"]
    assert scripts["submit-judge.sbatch"].endswith('--run-dir "$run" --group 1 "$@"\n')


@pytest.mark.parametrize("placement", ["slice", "hetjob"])
def test_one_job_is_one_script(tmp_path: Path, placement: str) -> None:
    assert list(render.scripts(planned(tmp_path, placement), SITE)) == ["submit.sbatch"]


def test_every_component_has_what_slurm_does_not_take_over(tmp_path: Path) -> None:
    script = sbatch.script(planned(tmp_path, "hetjob"), SITE)

    parts = script.split("#SBATCH hetjob\n")
    assert len(parts) == 2
    for option in ("--no-requeue", "--signal=B:USR2@120", "--export=NIL", "--time=1-12:00:00", "--ntasks-per-node=1"):
        assert all(part.count(f"#SBATCH {option}\n") == 1 for part in parts)


def test_a_short_job_is_not_told_to_end_when_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    short = recipe.load(path, ["time_limit=4m"])

    the_plan = plan.build(short, Profile(executor="slurm"), cluster="hpc", source="r", sha256="0" * 64)

    assert "#SBATCH --signal=B:USR2@60\n" in sbatch.script(the_plan, SITE)


@pytest.mark.parametrize(
    ("limit_s", "said"), [(30, "0-00:00:30"), (5400, "0-01:30:00"), (172_800, "2-00:00:00")], ids=["s", "min", "days"]
)
def test_time_limits_are_written_as_slurm_reads_them(limit_s: int, said: str) -> None:
    assert sbatch.clock(limit_s) == said


def test_the_output_goes_into_the_run_s_folder() -> None:
    assert sbatch.arguments(Path("/runs/100%/a b")) == ["--output=/runs/100%%/a b/slurm-%j.out"]


@pytest.mark.parametrize("name", ["a\\b", "a\nb"])
def test_a_folder_that_slurm_cannot_be_told_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="Slurm cannot write to a folder"):
        sbatch.arguments(Path("/runs") / name)


PYTHON = """\
#!/bin/bash
echo "$@" >>{calls}
[[ "$2" != *.adopt ]] || cat >{given}
env >{environment}
"""


def run(
    folder: Path, the_plan: Plan, *, stub: str = PYTHON, arguments: Sequence[str] = (), **site: Path
) -> subprocess.CompletedProcess[str]:
    """Run a script as Slurm does, nothing in its environment, with a Python that only takes notes."""
    program = folder / "a python"
    program.write_text(stub.format(calls=folder / "calls", given=folder / "given", environment=folder / "environment"))
    program.chmod(0o700)
    where = render.Site(**({"checkout": folder, "python": program, "run_dir": folder / "runs" / "geo3k"} | site))
    (folder / "runs" / "geo3k").mkdir(parents=True, exist_ok=True)
    script = folder / "submit.sbatch"
    script.write_text(sbatch.script(the_plan, where))
    slurm = {"SLURM_JOB_ID": "7", "SLURM_EXPORT_ENV": "NIL"}
    return subprocess.run(
        ["/bin/bash", str(script), *arguments], env=slurm, capture_output=True, text=True, check=False, timeout=20
    )


def test_the_script_adopts_its_plan_and_becomes_the_supervisor(tmp_path: Path) -> None:
    the_plan = planned(tmp_path)

    ended = run(tmp_path, the_plan)

    folder = tmp_path / "runs" / "geo3k"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"The run goes on in {folder}.\n", "")
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"-m orchestrator.allocation.adopt --run-dir {folder}",
        f"-m orchestrator.allocation.supervisor --run-dir {folder}",
    ]
    assert (tmp_path / "given").read_text() == plan.to_json(the_plan)
    assert (folder / "slurm-7.out").stat().st_mode & 0o777 == 0o600


def test_what_submit_has_made_is_not_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "geo3k"

    assert run(tmp_path, planned(tmp_path), arguments=["--submitit"]).returncode == 0

    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [f"-m orchestrator.allocation.supervisor --run-dir {folder} --submitit"]


def test_what_the_job_starts_gets_an_environment_that_works(tmp_path: Path) -> None:
    site = {"environment": {"HF_HOME": "/shared"}, "slurm": {"setup": "export LATE=$HF_HOME/x UNSET=$NOT_THERE"}}

    run(tmp_path, planned(tmp_path, **site))

    lines = (tmp_path / "environment").read_text().splitlines()
    known = dict(line.split("=", 1) for line in lines)
    assert (known["HF_HOME"], known["LATE"], known["PYTHONUNBUFFERED"]) == ("/shared", "/shared/x", "1")
    assert known["HOME"] == os.path.expanduser("~")
    assert {"PATH", "USER"} <= known.keys()
    assert "SLURM_EXPORT_ENV" not in known


def test_a_run_that_is_another_s_is_not_supervised(tmp_path: Path) -> None:
    refuses = '#!/bin/bash\necho "$@" >>{calls}\necho "error: another plan" >&2\nexit 3\n'

    ended = run(tmp_path, planned(tmp_path), stub=refuses)

    assert (ended.returncode, ended.stderr) == (3, "error: another plan\n")
    assert "supervisor" not in (tmp_path / "calls").read_text()


@pytest.mark.parametrize(
    ("site", "message"),
    [
        pytest.param({"checkout": Path("/nowhere")}, "there is no checkout /nowhere.", id="checkout"),
        pytest.param({"python": Path("/nowhere/python")}, "there is no interpreter /nowhere/python.", id="interpreter"),
        pytest.param({"run_dir": Path("/nowhere/geo3k")}, "there is no folder /nowhere to write to.", id="runs"),
    ],
)
def test_a_node_that_does_not_see_a_folder_says_so(tmp_path: Path, site: dict[str, Path], message: str) -> None:
    ended = run(tmp_path, planned(tmp_path), **site)

    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert message in ended.stderr
    assert not (tmp_path / "calls").exists()


def test_modules_are_loaded_where_nobody_has_defined_them(tmp_path: Path) -> None:
    init = tmp_path / "init" / "bash"
    init.parent.mkdir()
    init.write_text(f'module() {{ echo "$@" >>{tmp_path}/loaded; }}\n')
    site = {"environment": {"MODULESHOME": str(tmp_path)}, "slurm": {"modules": ["gcc/13", "cuda"]}}

    ended = run(tmp_path, planned(tmp_path, **site))

    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "loaded").read_text() == "load gcc/13\nload cuda\n"


def test_a_module_that_cannot_be_loaded_ends_the_job(tmp_path: Path) -> None:
    ended = run(tmp_path, planned(tmp_path, slurm={"modules": ["no-such"]}))

    assert ended.returncode == 1
    assert "module no-such cannot be loaded." in ended.stderr


def test_nothing_in_a_path_reaches_the_shell(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = tmp_path / f"$(touch {canary.name}); `touch {canary.name}` '\" #"
    evil.mkdir()

    ended = run(tmp_path, planned(tmp_path), checkout=evil, run_dir=tmp_path / "runs" / "geo3k")

    assert ended.returncode == 0, ended.stderr
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize("name", ["slice", "hetjob", "pair", "pair-judge"])
def test_bash_reads_the_golden_scripts(name: str) -> None:
    ended = subprocess.run(["bash", "-n", str(GOLDEN / f"{name}.sbatch")], capture_output=True, check=False, timeout=10)

    assert (ended.returncode, ended.stderr) == (0, b"")
