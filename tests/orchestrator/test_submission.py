from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator import inspection, ledger, plan, profile, recipe, render, strict_yaml, submission, validation
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


SLURM = Profile.model_validate({"executor": "slurm", "node": {"gpus": 4}, "roles": {"b": {"nodes": 3}}})


def test_a_run_for_slurm_holds_every_script_that_is_submitted(tmp_path: Path) -> None:
    text = "name: a\nroles:\n  s: {job: x}\n  b: {job: x, needs: s}\nplacement: pair\n"

    run = create(checked(tmp_path, text, Profile(executor="slurm")))

    scripts = render.scripts(plan.load(run.plan), submission.site(run, inspection.checkout()))
    assert sorted(scripts) == ["submit-s.sbatch", "submit.sbatch"]
    assert {path.name: path.read_text() for path in run.path.glob("submit*")} == scripts


def test_a_cluster_is_not_measured_by_this_machine(tmp_path: Path) -> None:
    what = checked(tmp_path, BIG.replace("8", "4"), SLURM)

    submission.refuse_if_lacking(what)


def test_what_no_node_of_the_cluster_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r-tiny.yaml").write_text("name: x\n")

    with pytest.raises(InputError) as caught:
        submission.refuse_if_lacking(checked(tmp_path, BIG, SLURM))

    assert str(caught.value).replace(f"{tmp_path}/", "") == (
        "r.yaml: the cluster 'local' cannot run it: 1 problem.\n"
        "  r.yaml:3: roles.b.gpus_per_node: The role asks for 8 GPUs; a node of this site has 4 GPUs."
    )


LOST = "name: a\nroles:\n  b: {job: command, cpus_per_node: 2, with: {argv: [no-such-program]}}\n"


def lost(folder: Path, monkeypatch: pytest.MonkeyPatch, **site: Any) -> Checked:
    found = Profile.model_validate({"executor": "slurm", **site})
    monkeypatch.setattr(profile, "load", lambda _name, _folder: found)
    path = folder / "r.yaml"
    path.write_text(LOST)
    return validation.check(path, [], "site", inspection.checkout())


def test_what_is_missing_here_is_missing_on_nodes_that_run_the_same_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = lost(tmp_path, monkeypatch)

    assert submission.warnings(what) == []
    with pytest.raises(InputError, match="There is no program 'no-such-program'"):
        submission.refuse_if_lacking(what)


@pytest.mark.parametrize(
    "site",
    [
        pytest.param({"slurm": {"virtual_environment": "/v"}}, id="of the site"),
        pytest.param({"roles": {"b": {"python": "/p"}}}, id="of the role"),
        pytest.param({"roles": {"b": {"container": {"engine": "apptainer", "image": "/i"}}}}, id="container"),
    ],
)
def test_what_another_interpreter_may_have_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: dict[str, Any]
) -> None:
    what = lost(tmp_path, monkeypatch, **site)

    submission.refuse_if_lacking(what)
    (warning,) = submission.warnings(what)
    assert warning.startswith("on this machine, perhaps not on the nodes: ")
    assert "There is no program 'no-such-program'" in warning


def test_a_size_that_gives_way_to_the_site_is_told(tmp_path: Path) -> None:
    recipe = RECIPE.replace("job: command", "job: command, cpus_per_node: 2")
    silent = checked(tmp_path, recipe, SLURM)
    written = checked(tmp_path, recipe.replace("job: command", "job: command, nodes: 2"), SLURM)

    assert submission.warnings(silent) == []
    assert submission.warnings(written) == [
        "cluster/local.yaml: roles.b.nodes: is 3 on this site, and goes before the recipe's 2."
    ]


def test_nodes_without_a_number_of_cores_are_told(tmp_path: Path) -> None:
    (warning,) = submission.warnings(checked(tmp_path, RECIPE, SLURM))
    assert "the nodes of b ask for no number of CPU cores" in warning
    whole = SLURM.model_copy(update={"slurm": SLURM.slurm.model_copy(update={"exclusive": True})})
    assert submission.warnings(checked(tmp_path, RECIPE, whole)) == []


def test_a_placement_that_the_site_cannot_have_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "load", lambda _name, _folder: SLURM)
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE + "placement: hetjob\n")

    with pytest.raises(InputError, match=r"r\.yaml:4: placement: A heterogeneous job has several kinds of nodes"):
        validation.check(path, [], "site", inspection.checkout())


def test_what_is_wrong_with_the_recipe_is_told_before_what_is_wrong_with_the_site(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)

    with pytest.raises(InputError, match=r"roles\.b\.job: There is no job 'comand'"):
        validation.check(path, ["b.job=comand"], "nowhere", inspection.checkout())
    with pytest.raises(InputError, match=r"--cluster: there is no profile .*nowhere\.yaml"):
        validation.check(path, [], "nowhere", inspection.checkout())
