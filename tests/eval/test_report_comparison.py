from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval.record import Steps
from eval.report import __main__ as command
from eval.report import comparison_page, curves
from orchestrator.errors import NotFound
from orchestrator.run_directory import RunDirectory
from tests.eval import fake_run
from tests.eval.test_report import Page
from tests.orchestrator import runs as made_by_hand


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunDirectory]:
    root = tmp_path_factory.mktemp("runs")
    with_judge = fake_run.make(root / "with-judge", steps=24, prompts=2, samples=2, problems=20)
    without = fake_run.make(root / "without", steps=30, prompts=2, samples=2, problems=20)
    plan = json.loads(without.plan.read_text())
    del plan["roles"][2]["settings"]["rewards"]["visual_perception"]
    without.plan.write_text(json.dumps(plan))
    return [with_judge, without]


@pytest.fixture(scope="module")
def page(runs: list[RunDirectory]) -> Page:
    return Page(comparison_page.build(runs))


def test_models_are_compared_by_the_problems_that_they_share(page: Page) -> None:
    assert "with-judge:after" in page.text
    assert "McNemar exact test: b=" in page.text


def test_settings_that_differ_are_named_with_both_values(page: Page) -> None:
    assert "roles.train.settings.rewards.visual_perception 0.7 –" in page.text


def test_each_run_has_its_goodput_and_its_rewards(page: Page) -> None:
    assert "with-judge: goodput" in page.text
    assert "without: goodput" in page.text
    assert "weight 0.7" in page.text


def test_each_curve_has_a_line_for_each_run_in_its_colour(page: Page) -> None:
    assert page.count("polyline", "s0") == page.count("polyline", "s1") > 10


def test_a_run_without_a_metric_keeps_the_colour_of_the_others() -> None:
    rows = tuple({"step": step, "actor/entropy": step / 7} for step in range(1, 9))

    sections = curves.compared({"empty": Steps(), "full": Steps(rows=rows)})

    (figure,) = sections["Optimisation"].figures
    assert 'class="line s1"' in figure.svg
    assert figure.legend.count("key s") == 2


def test_runs_that_cannot_be_compared_still_have_a_page_that_says_why(tmp_path: Path, runs: list[RunDirectory]) -> None:
    bare = RunDirectory(tmp_path / "bare")
    bare.create()

    text = Page(comparison_page.build([runs[0], bare])).text

    assert "The models could not be compared" in text
    assert "bare" in text


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    same = [RunDirectory(tmp_path / place / "run") for place in ("a", "b")]
    for run in same:
        run.create()

    text = Page(comparison_page.build(same)).text

    assert "a/run against b/run" in text


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, runs: list[RunDirectory]) -> None:
    with pytest.raises(NotFound, match="none is not a folder"):
        comparison_page.build([runs[0], RunDirectory(tmp_path / "none")])


def test_the_command_writes_the_page_where_it_is_told(
    tmp_path: Path, runs: list[RunDirectory], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "both.html"
    arguments = [word for run in runs for word in ("--run-dir", str(run.path))]

    assert command.main([*arguments, "--output", str(output)]) == 0

    assert capsys.readouterr().out.startswith(str(output))
    assert "with-judge" in output.read_text()


def test_the_verb_report_puts_several_runs_on_one_page_beside_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made_by_hand.make(tmp_path, name)
    command_line = [sys.executable, "-m", "orchestrator", "report", "a", "b"]

    done = subprocess.run(
        command_line, env=os.environ | {"ORCH_RUNS": str(tmp_path)}, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/a-b.html\n"
    assert "a against b" in Page((tmp_path / "a-b.html").read_text()).text
