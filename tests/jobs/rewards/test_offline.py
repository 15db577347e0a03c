"""Scoring from the command line: cases in, scores out, the same as in training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.target import Space, Target
from jobs.rewards.__main__ import cases_of, main, rewards_of
from orchestrator.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[3]
BOX = Target(space=Space(system="rel1000", width_px=100, height_px=100), boxes=((0, 0, 500, 500),))


def score(*words: str, rows: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.rewards", "score", *words],
        input="".join(json.dumps(row) + "\n" for row in rows),
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        timeout=120,
        check=False,
    )


def test_rollouts_are_scored_in_their_order_under_their_names() -> None:
    rows = [
        {"id": "a", "step": 3, "sample": 0, "answer": "5", "response": "\\boxed{5}", "total": 1.0},
        {"id": "a", "step": 3, "sample": 1, "answer": "5", "response": "\\boxed{6}"},
    ]

    done = score("accuracy", rows=rows)

    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"id": "a", "step": 3, "sample": 0, "score": 1.0},
        {"id": "a", "step": 3, "sample": 1, "score": 0.0},
    ]
    assert "accuracy: mean 0.5000 of 2, 0 missing" in done.stderr
    assert done.returncode == 0


def test_settings_are_those_of_a_recipe() -> None:
    rows = [{"response": "[0, 0, 500, 250]", "target": BOX.to_json(), "kind": "grounding"}]

    squared, plain = (score("grounding", "--with", f"power={power}", rows=rows) for power in (2, 1))

    assert json.loads(squared.stdout)["score"] == pytest.approx(0.25)
    assert json.loads(plain.stdout)["score"] == pytest.approx(0.5)


def test_all_bad_lines_are_named_and_nothing_is_printed() -> None:
    done = score("format", rows=[{"response": 1}, {"response": "x", "images": ["absent.png"]}, {"response": "y"}])

    assert (done.stdout, done.returncode) == ("", 2)
    assert "line 1" in done.stderr
    assert "line 2" in done.stderr
    assert "absent.png" in done.stderr


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("grouding", (), "Did you mean 'grounding'"),
        ("grounding", ("power=9",), "power"),
        ("json:dumps", ("x=1",), "has no settings"),
    ],
)
def test_what_cannot_be_a_reward_is_said(name: str, given: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        rewards_of(name, given)


def test_a_run_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "format", "--run", "nowhere"]) == 2
    assert "'nowhere'" in capsys.readouterr().err


def test_images_are_read_from_the_runs_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"png")

    [(example, response)] = cases_of([{"response": "r", "images": ["images/a.png"], "answer": "1"}], tmp_path)

    assert (example.images, example.answer, response) == ((b"png",), "1", "r")
