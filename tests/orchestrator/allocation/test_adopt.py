from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import ledger, plan, recipe, render, submission
from orchestrator.allocation import adopt
from orchestrator.errors import ConflictError, InputError
from orchestrator.plan import Plan
from orchestrator.profile import Profile
from orchestrator.run_directory import RunDirectory

RECIPE = "name: a\nroles:\n  s: {job: x}\n  b: {job: x, needs: s}\nplacement: pair\n"


@pytest.fixture
def the_plan(tmp_path: Path) -> Plan:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return plan.build(recipe.load(path), Profile(executor="slurm"), cluster="hpc", source="r.yaml", sha256="0" * 64)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "a")


def test_a_run_is_made_of_the_plan_alone(run: RunDirectory, the_plan: Plan) -> None:
    assert adopt.adopt(run, plan.to_json(the_plan))

    assert plan.load(run.plan) == the_plan
    scripts = render.scripts(the_plan, submission.site(run, adopt.CHECKOUT))
    assert {name: (run.path / name).read_text() for name in scripts} == scripts
    assert [(event.generation, event.event) for event in ledger.read(run.ledger)] == [(0, "submitted")]
    assert {path.stat().st_mode & 0o077 for path in (run.path, *run.path.rglob("*"))} == {0}


def test_a_run_that_is_there_is_left_as_it_is(run: RunDirectory, the_plan: Plan) -> None:
    adopt.adopt(run, plan.to_json(the_plan))
    before = run.ledger.read_bytes()

    assert not adopt.adopt(run, plan.to_json(the_plan))

    assert run.ledger.read_bytes() == before
    assert [path.name for path in run.path.parent.iterdir()] == ["a"]


def test_of_many_jobs_at_once_one_makes_the_run(run: RunDirectory, the_plan: Plan) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: adopt.adopt(run, plan.to_json(the_plan)), range(20)))

    assert sum(made) == 1
    assert [path.name for path in run.path.parent.iterdir()] == ["a"]


def test_a_run_of_another_plan_is_refused(run: RunDirectory, the_plan: Plan) -> None:
    adopt.adopt(run, plan.to_json(the_plan))

    with pytest.raises(ConflictError, match="holds a run with another plan"):
        adopt.adopt(run, plan.to_json(replace(the_plan, time_limit_s=1)))


def test_a_folder_that_is_no_run_is_refused(run: RunDirectory, the_plan: Plan) -> None:
    run.path.mkdir(parents=True)
    (run.path / "thesis.txt").write_text("all of it")

    with pytest.raises(ConflictError, match="is in the way and is not a run"):
        adopt.adopt(run, plan.to_json(the_plan))

    assert [path.name for path in run.path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 1}', "[1]"])
def test_what_is_no_plan_is_refused(run: RunDirectory, text: str) -> None:
    with pytest.raises(InputError, match="is not a plan that this version reads"):
        adopt.adopt(run, text)

    assert not run.path.exists()


def test_the_program_says_what_is_wrong_and_how(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("{}"))

    assert adopt.main(["--run-dir", str(run.path)]) == 2
    assert capsys.readouterr().err.startswith("error: standard input: is not a plan")
