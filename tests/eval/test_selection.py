from __future__ import annotations

from pathlib import Path
from typing import Any

from eval import selection
from tests.eval.fake_run import write_lines


def rollout(step: int, example: str, total: float | None, sample: int = 0, **more: Any) -> dict[str, Any]:
    return {"step": step, "id": example, "sample": sample, "total": total, "rewards": {"accuracy": total}, **more}


def test_at_most_48_are_chosen_in_the_order_of_steps(tmp_path: Path) -> None:
    rows = [rollout(step, f"p{k}", k / 64) for step in range(1, 61) for k in range(64)]
    write_lines(tmp_path / "log", rows)

    chosen, total = selection.choose(tmp_path / "log")

    assert total == 3840
    assert len(chosen) <= 48
    assert [one.row["step"] for one in chosen] == sorted(one.row["step"] for one in chosen)
    assert {reason for one in chosen for reason in one.reasons} == set(selection.SHARES) - {selection.MISSING}


def test_missing_verdicts_are_shown_and_never_rank_as_best_or_worst(tmp_path: Path) -> None:
    write_lines(tmp_path / "log", [rollout(1, "a", 1.0), rollout(2, "b", None), rollout(3, "c", 0.0)])

    chosen, _ = selection.choose(tmp_path / "log")

    assert {one.row["id"]: one.reasons for one in chosen}["b"] == ("no verdict", "along the way")


def test_a_rollout_made_again_after_a_restart_is_shown_as_it_was_made_last(tmp_path: Path) -> None:
    write_lines(tmp_path / "log", [rollout(1, "a", 0.0, response="old"), rollout(1, "a", 1.0, response="new")])

    chosen, total = selection.choose(tmp_path / "log")

    assert ([one.row["response"] for one in chosen], total) == (["new"], 1)


def test_best_shows_different_problems_before_the_same_one_twice(tmp_path: Path) -> None:
    rows = [rollout(5, "easy", 1.0, sample=k) for k in range(20)] + [rollout(5, "hard", 0.9)]
    rows = [rollout(1, "x", 0.5), *rows, rollout(9, "y", 0.5)]
    write_lines(tmp_path / "log", rows)

    chosen, _ = selection.choose(tmp_path / "log")

    assert "hard" in [one.row["id"] for one in chosen if selection.BEST in one.reasons]


def test_no_log_has_nothing_to_choose_from(tmp_path: Path) -> None:
    assert selection.choose(tmp_path / "none") == ([], 0)
