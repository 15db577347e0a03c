from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator import inspection, ledger, plan, recipe, render, strict_yaml, submission
from orchestrator.errors import ConflictError, InputError
from orchestrator.profile import Profile
from orchestrator.run_directory import RunDirectory, existing
from orchestrator.submission import Checked
from tests.orchestrator.runs import tell

RECIPE = "name: a\nroles:\n  b: {job: command, with: {argv: [ls]}}\n"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCH_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def checked(folder: Path, text: str = RECIPE, profile: Profile | None = None) -> Checked:
    path = folder / "r.yaml"
    path.write_text(text)
    source = recipe.read(path)
    read, problems = recipe.check(source)
    assert read is not None, problems
    return Checked(source=source, recipe=read, profile=profile or Profile(executor="local"), cluster="local")


def create(what: Checked, *, run_name: str | None = None, force_new: bool = False) -> RunDirectory:
    return submission.create(what, inspection.checkout(), run_name=run_name, force_new=force_new)


def test_a_run_holds_what_was_asked_and_what_will_run(tmp_path: Path) -> None:
    what = checked(tmp_path)

    run = create(what)

    stored = plan.load(run.plan)
    assert stored == what.plan("a")
    assert strict_yaml.plain(strict_yaml.load(run.recipe)) == what.source.data
    assert (run.path / "submit.sh").read_text() == render.script(stored, submission.site(run, inspection.checkout()))
    assert [(event.generation, event.event) for event in ledger.read(run.ledger)] == [(0, "submitted")]


def test_a_run_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    run = create(checked(tmp_path))

    modes = {path.stat().st_mode & 0o077 for path in (run.path, *run.path.rglob("*"))}

    assert modes == {0}


def test_nothing_but_the_run_is_left_in_the_folder(tmp_path: Path, root: Path) -> None:
    create(checked(tmp_path))

    assert os.listdir(root) == ["a"]


def test_of_many_submissions_at_once_exactly_one_wins(tmp_path: Path, root: Path) -> None:
    what = checked(tmp_path)

    def attempt(_number: int) -> bool:
        try:
            create(what)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(attempt, range(50)))

    assert sum(won) == 1
    assert os.listdir(root) == ["a"]


def test_many_forced_submissions_at_once_get_names_of_their_own(tmp_path: Path) -> None:
    what = checked(tmp_path)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _number: create(what, force_new=True), range(8)))

    assert {run.name for run in made} == {"a", *(f"a-{number}" for number in range(2, 9))}
    assert {plan.load(run.plan).name for run in made} == {run.name for run in made}


def test_an_unfinished_run_is_to_be_continued(tmp_path: Path) -> None:
    what = checked(tmp_path)
    run = create(what)
    tell(run, 1, "attempt_started", attempt=1, host="here", pid=1)

    with pytest.raises(ConflictError, match=r"LOST\. Continue it: python -m orchestrator resume a\. Or start another"):
        create(what)


def test_a_finished_run_is_not_run_over(tmp_path: Path) -> None:
    what = checked(tmp_path)
    run = create(what)
    tell(run, 1, "run_finished", state="SUCCEEDED", cause="", diagnosis="")

    with pytest.raises(ConflictError, match=r"run: a has already SUCCEEDED\. To run again, start another"):
        create(what)


def test_a_folder_of_another_recipe_is_not_to_be_continued(tmp_path: Path) -> None:
    run = create(checked(tmp_path))
    tell(run, 1, "attempt_started", attempt=1, host="here", pid=1)

    with pytest.raises(ConflictError, match="was made from another recipe"):
        create(checked(tmp_path, RECIPE.replace("ls", "pwd")))


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, root: Path) -> None:
    (root / "a").mkdir(parents=True)
    (root / "a" / "thesis.txt").write_text("all of it")

    with pytest.raises(ConflictError, match="is in the way and is not a run"):
        create(checked(tmp_path))

    assert (root / "a" / "thesis.txt").read_text() == "all of it"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "$(x)"])
def test_a_name_cannot_leave_the_folder_of_runs(tmp_path: Path, root: Path, name: str) -> None:
    with pytest.raises(InputError, match="is not a run's name"):
        create(checked(tmp_path), run_name=name or "/")

    assert existing(root) == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ORCH_RUNS", str(tmp_path / "file" / "runs"))

    with pytest.raises(InputError, match="the run's folder cannot be made: Not a directory"):
        create(checked(tmp_path))


def test_a_half_written_run_is_no_run(tmp_path: Path, root: Path) -> None:
    draft = RunDirectory(root / ".a.12345678.tmp")
    draft.create()
    draft.plan.write_text("{}")

    assert existing(root) == []
    assert create(checked(tmp_path)).name == "a"


BIG = "name: big\nroles:\n  b: {job: command, gpus_per_node: 8, with: {argv: [ls]}}\n"


def test_a_machine_that_is_too_small_is_named_with_the_smaller_recipe(tmp_path: Path) -> None:
    (tmp_path / "r-tiny.yaml").write_text("name: x\n")
    what = checked(tmp_path, BIG, Profile.model_validate({"executor": "local", "node": {"gpus": 2}}))

    with pytest.raises(InputError) as caught:
        submission.refuse_if_lacking(what)

    assert str(caught.value).replace(f"{tmp_path}/", "") == (
        "r.yaml: this machine cannot run it: 1 problem.\n"
        "  r.yaml:3: roles.b.gpus_per_node: The role asks for 8 GPUs; this machine has 2 GPUs.\n"
        "  r-tiny.yaml is the same run for a machine like this one."
    )


def test_without_a_smaller_recipe_none_is_named(tmp_path: Path) -> None:
    what = checked(tmp_path, BIG, Profile.model_validate({"executor": "local", "node": {"gpus": 0}}))

    with pytest.raises(InputError) as caught:
        submission.refuse_if_lacking(what)

    assert "tiny" not in str(caught.value).replace(str(tmp_path), "")
