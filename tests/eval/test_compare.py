from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eval import compare, compare_table
from eval.compare import Arm
from orchestrator.errors import InputError, NotFound
from orchestrator.run_directory import RunDirectory
from tests.eval.evaluated_runs import SUMMARY, answer, answers, write

PLAN = {"name": "base", "recipe_sha256": "1", "roles": [{"name": "train", "settings": {"lr": 1e-6, "rewards": {}}}]}


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCH_RUNS", str(tmp_path))
    return tmp_path


def run(folder: Path, rows: list[dict[str, Any]], **more: Any) -> RunDirectory:
    return write(folder, rows, **({"plan": PLAN, "summary": {}} | more))


def test_two_runs_are_paired_by_id(runs: Path) -> None:
    base = run(runs / "base", answers("ab", "cdefghijkl"))
    ours = run(runs / "ours", answers("lkjihgfedc", "ba"))

    found = compare.between([base, ours])

    [result] = found.results
    assert (result.task, result.labels) == ("geometry3k", ("base:after", "ours:after"))
    assert result.test is not None
    assert (result.test.b, result.test.c) == (2, 10)
    assert result.p == pytest.approx(0.0386, abs=5e-5)
    assert [flip.id for flip in result.flips] == list("abcdefghijkl")
    assert found.notes == ("ours:after has the same weights as base:after (sha256 aaaaaaaaaaaa).",)


def test_other_data_are_refused_and_all_that_differs_is_said(runs: Path) -> None:
    base = run(runs / "base", answers("abcdefg"))
    ours = run(
        runs / "ours", [*answers("fgh"), answer("d", True, answer="7"), answer("e", True, images=["images/x.png"])]
    )

    with pytest.raises(InputError) as raised:
        compare.between([base, ours])

    assert str(raised.value) == (
        "compare: the models did not answer the same problems: 1 problem.\n"
        "  geometry3k: base:after and ours:after: problems: 3 that ours:after lacks (a, b, c), 1 that only ours:after "
        "has (h), 1 with another answer in ours:after (d), 1 with other images in ours:after (e). Evaluate both on the "
        "same data, or compare the problems that are the same with --common."
    )


def test_the_problems_that_are_the_same_are_compared_on_demand(runs: Path) -> None:
    base = run(runs / "base", answers("abc", "defg"))
    ours = run(runs / "ours", [*answers("fgh"), answer("d", True, answer="7"), answer("e", True, target={"count": 3})])

    found = compare.between([base, ours], common=True)

    [result] = found.results
    assert (result.counts, result.test and result.test.c) == ((2, 2), 2)
    assert found.notes[0].startswith(
        "geometry3k: 2 problems are the same in base:after and ours:after. Left out are problems: 3 that ours:"
    )


def test_with_nothing_in_common_even_that_is_refused(runs: Path) -> None:
    base, ours = run(runs / "base", answers("ab")), run(runs / "ours", answers("cd"))

    with pytest.raises(InputError, match="did not answer the same problems"):
        compare.between([base, ours], common=True)


def test_another_prompt_is_a_difference_to_know_of_and_no_other_problem(runs: Path) -> None:
    base = run(runs / "base", answers("abc"))
    ours = run(runs / "ours", [*answers("ab"), answer("c", True, prompt="c? Answer.")])

    assert (
        "geometry3k: 1 of 3 prompts of ours:after are not those of base:after." in compare.between([base, ours]).notes
    )


def test_settings_that_differ_are_listed_with_old_and_new(runs: Path) -> None:
    other = {"name": "ours", "recipe_sha256": "2", "roles": [{"name": "train", "settings": {"lr": 2e-6, "kl": 0.1}}]}
    versions = {"orchestrator": "0.5.0", "vllm": "0.32.1"}
    base = run(runs / "base", answers("a"))
    ours = run(runs / "ours", answers("a"), plan=other, summary={"versions": versions, "model_sha256": "b" * 64})

    changes = compare.between([base, ours]).changes

    assert [(change.key, change.before, change.after) for change in changes] == [
        ("eval.geometry3k.model_sha256", "a" * 64, "b" * 64),
        ("eval.geometry3k.versions.vllm", "0.33.0", "0.32.1"),
        ("roles.train.settings.kl", None, 0.1),
        ("roles.train.settings.lr", 1e-6, 2e-6),
        ("roles.train.settings.rewards", {}, None),
    ]


def test_without_plans_the_summaries_say_what_differs(runs: Path) -> None:
    base = run(runs / "base", answers("a"), plan=None)
    ours = run(runs / "ours", answers("a"), plan=None, summary={"decoding": {**SUMMARY["decoding"], "temperature": 1}})

    changes = compare.between([base, ours]).changes

    assert [(change.key, change.before, change.after) for change in changes] == [
        ("eval.geometry3k.decoding.temperature", 0, 1)
    ]


def test_p_values_are_corrected_over_tasks_and_runs(runs: Path) -> None:
    for name, rows in (("base", answers("", "abcdef")), ("one", answers("abcdef")), ("two", answers("abcd", "ef"))):
        for task in ("mathvista", "mathverse"):
            found = run(runs / name, rows, task=task)
    assert found.name == "two"

    results = compare.between(compare.arms(["base", "one", "two"])).results

    assert [(one.task, one.labels[1]) for one in results] == [
        ("mathverse", "one:after"),
        ("mathvista", "one:after"),
        ("mathverse", "two:after"),
        ("mathvista", "two:after"),
    ]
    assert [one.p for one in results] == [0.03125, 0.03125, 0.125, 0.125]
    assert [one.corrected and one.corrected.holm for one in results] == [0.125, 0.125, 0.25, 0.25]
    assert [one.corrected and one.corrected.benjamini_hochberg for one in results] == [0.0625, 0.0625, 0.125, 0.125]


def test_numbers_over_all_answers_are_put_side_by_side(runs: Path) -> None:
    base = run(runs / "base", answers("a"), summary={"aggregate": {"detection": {"AP": 0.161, "tie_order": "id"}}})
    ours = run(runs / "ours", answers("a"), summary={"aggregate": {"detection": {"AP": 0.319, "tie_order": "id"}}})

    [total] = compare.between([base, ours]).totals

    assert (total.name, total.before, total.after) == ("aggregate.detection.AP", 0.161, 0.319)


def test_seeds_joined_by_commas_are_one_model(runs: Path) -> None:
    run(runs / "base", answers("a", "bcd"))
    for seed, rows in enumerate((answers("ab", "cd"), answers("abc", "d"))):
        plan = {**PLAN, "roles": [{"name": "train", "settings": {"lr": 1e-6, "rewards": {}, "seed": seed}}]}
        run(runs / f"ours-{seed}", rows, plan=plan)

    found = compare.between(compare.arms(["base", "ours-0,ours-1"]))

    [result] = found.results
    assert result.over_seeds is not None
    assert result.over_seeds.after.values == (0.5, 0.75)
    assert result.labels[1] == "ours-0,ours-1:after"
    assert "The runs of ours-0,ours-1:after differ in roles.train.settings.seed." in found.notes


def test_one_run_alone_is_its_before_and_after(runs: Path) -> None:
    run(runs / "ours", answers("a", "b"), label="before")
    run(runs / "ours", answers("ab"))

    [result] = compare.between(compare.arms(["ours"])).results

    assert result.labels == ("ours:before", "ours:after")


def test_labels_are_named_behind_a_colon(runs: Path) -> None:
    run(runs / "ours", answers("a"), label="step-10")
    run(runs / "ours", answers("a"), label="step-20")

    assert [arm.name for arm in compare.arms(["ours:step-10", "ours:step-20"])] == ["ours:step-10", "ours:step-20"]


def test_runs_of_one_name_are_told_apart_by_their_folders(runs: Path) -> None:
    first, second = run(runs / "x/out", answers("a"), plan=None), run(runs / "y/out", answers("a"), plan=None)

    found = compare.between([first, second])

    assert [arm.name for arm in found.arms] == [f"{runs}/x/out:after", f"{runs}/y/out:after"]


def test_an_answer_written_twice_holds_as_it_was_written_last(runs: Path) -> None:
    base = run(runs / "base", [answer("a", False), answer("a", True)])
    ours = run(runs / "ours", answers("a"))

    assert compare.between([base, ours]).results[0].intervals[0].estimate == 1.0


@pytest.mark.parametrize(
    ("texts", "label", "kind", "message"),
    [
        pytest.param(["base", "nope"], None, NotFound, "no run 'nope'", id="no such run"),
        pytest.param(["base", "ours:later"], None, NotFound, "no label 'later'. Its labels: after", id="no such label"),
        pytest.param(["base", "ours"], "later", NotFound, "no label 'later'", id="no such label for all"),
        pytest.param(["base", "base"], None, InputError, "base:after is named more than once", id="itself"),
        pytest.param(["base"], None, InputError, "only the label after", id="one model"),
        pytest.param(["base", "steps"], None, InputError, "several labels, a, b. Name one: steps:a", id="which label"),
        pytest.param(["base", "bare"], None, NotFound, "has no evaluation", id="not evaluated"),
        pytest.param(["base", "other"], None, InputError, "no task was answered by the first", id="no common task"),
        pytest.param(["base", "steps:a,steps:b"], None, InputError, "seeds of one setting have one label", id="seeds"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    runs: Path, texts: list[str], label: str | None, kind: type[Exception], message: str
) -> None:
    for name in ("base", "ours"):
        run(runs / name, answers("a"))
    for one in ("a", "b"):
        run(runs / "steps", answers("a"), label=one)
    run(runs / "other", answers("a"), task="mathvista")
    (runs / "bare").mkdir()
    (runs / "bare/plan.json").write_text("{}")

    with pytest.raises(kind, match=message):
        compare.between(compare.arms(texts, label))


def test_a_task_that_one_lacks_is_named(runs: Path) -> None:
    base, ours = run(runs / "base", answers("a")), run(runs / "ours", answers("a"))
    run(runs / "ours", answers("a"), task="mathvista", summary=None)

    found = compare.between([base, ours])

    assert "ours:after has no counterpart of mathvista in base:after." in found.notes
    with pytest.raises(NotFound, match=r"--task: base:after has no mathvista\. Tasks: base:after: geometry3k; ours"):
        compare.between([base, ours], tasks=["mathvista"])


def test_an_evaluation_that_goes_on_is_said_to(runs: Path) -> None:
    base, ours = run(runs / "base", answers("a")), run(runs / "ours", answers("a"), summary=None)

    assert "ours: the evaluation of after on geometry3k has not finished." in compare.between([base, ours]).notes


def test_json_holds_everything_and_no_nan(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(runs / "base", answers("a", "b"))
    run(runs / "ours", [*answers("ab"), answer("a", True, sample=1)])

    assert compare.main(["base", "ours", "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    assert [arm["name"] for arm in found["arms"]] == ["base:after", "ours:after"]
    assert found["results"][0]["passes"] == []
    assert found["results"][0]["flips"][0]["said_before"] == ["wrong"]
    assert found["results"][0]["corrected"] == {"family": 1, "holm": 1.0, "benjamini_hochberg": 1.0}


def test_errors_end_with_their_code(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(runs / "base", answers("a"))

    assert compare.main(["base", "nope"]) == 4
    assert capsys.readouterr().err == f"error: run: no run 'nope' in {runs}. Runs there: base.\n"


def test_the_tables_fit_a_terminal_of_80_columns(runs: Path) -> None:
    base = run(runs / "base", answers("ab", "cdefghijkl"))
    plan = {**PLAN, "roles": [{"name": "train", "settings": {"lr": 2e-6, "rewards": {}}}]}
    ours = run(runs / "ours", answers("lkjihgfedc", "ba"), plan=plan, summary={"aggregate": {"ocr": {"f1": 0.9}}})
    out = io.StringIO()

    compare_table.show(compare.between([base, ours]), 3, Console(file=out, width=80))

    shown = out.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    assert "0.167            0.833            +0.667             0.039" in shown
    assert "0.047 to 0.448   0.552 to 0.953" in shown
    assert "10 gained, 2 lost; the first 3" in shown
    assert "roles.train.settings.lr" in shown
    assert "aggregate.ocr.f1" in shown


def test_brackets_of_a_model_are_text_and_not_markup(runs: Path) -> None:
    base = run(runs / "base", [answer("a", False, extracted="[bold]x[/bold]")])
    ours = run(runs / "ours", [answer("a", True, extracted="[/red] [1, 2]")])
    out = io.StringIO()

    compare_table.show(compare.between([base, ours]), 3, Console(file=out, width=100))

    assert "[bold]x[/bold]" in out.getvalue()
    assert "[/red] [1, 2]" in out.getvalue()


@pytest.mark.slow
def test_the_verb_compares_from_any_folder(runs: Path, tmp_path: Path) -> None:
    run(runs / "base", answers("a", "b"))
    run(runs / "ours", answers("ab"))
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "eval").mkdir(parents=True)  # a folder of that name must not be taken for the module
    command = [sys.executable, "-m", "orchestrator", "compare", "base", "ours", "--json"]

    done = subprocess.run(command, cwd=elsewhere, env=dict(os.environ), capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["flips"][0]["id"] == "b"


def test_an_arm_may_have_a_title(runs: Path) -> None:
    base, ours = run(runs / "base", answers("a")), run(runs / "ours", answers("a"))

    found = compare.between([Arm(runs=(base,), label="after", title="plain GRPO"), ours])

    assert found.results[0].labels == ("plain GRPO", "ours:after")
