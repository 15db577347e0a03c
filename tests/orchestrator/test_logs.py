from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import logs
from orchestrator.errors import NotFound
from tests.orchestrator import runs
from tests.orchestrator.runs import log


def shown(lines: object) -> list[str]:
    return [f"{line.attempt} {line.source} {line.text}" for line in lines]  # type: ignore[attr-defined]


def test_the_newest_attempt_is_read(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    log(run, 9, "train", "old\n")
    log(run, 10, "train", "new\n")

    assert shown(logs.read(run)) == ["10 train new"]


def test_an_older_attempt_can_be_asked_for(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    log(run, 1, "train", "old\n")
    log(run, 2, "train", "new\n")

    assert shown(logs.read(run, attempt=1)) == ["1 train old"]


def test_a_role_means_all_its_replicas_and_no_other_role(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    for name in ("judge-0", "judge-1", "judge-large-0", "train"):
        log(run, 1, name, f"of {name}\n")

    assert shown(logs.read(run, "judge")) == ["1 judge-0 of judge-0", "1 judge-1 of judge-1"]
    assert shown(logs.read(run, "judge-1")) == ["1 judge-1 of judge-1"]


def test_a_last_line_without_an_end_is_shown(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    log(run, 1, "train", "one\ntwo")

    assert shown(logs.read(run)) == ["1 train one", "1 train two"]


def test_of_a_bar_drawn_over_itself_the_last_state_counts(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    log(run, 1, "train", "1%\r50%\r100%\n")

    assert shown(logs.read(run)) == ["1 train 100%"]


@pytest.mark.parametrize(
    ("role", "attempt", "message"),
    [
        pytest.param("trian", None, "--role: 'trian' has no log in attempt 1 of a. Did you mean 'train'?", id="role"),
        pytest.param(None, 7, "--attempt: a has no attempt 7. It has 1 to 1.", id="attempt"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, role: str | None, attempt: int | None, message: str) -> None:
    run = runs.make(tmp_path)
    log(run, 1, "train", "x\n")

    with pytest.raises(NotFound) as caught:
        logs.read(run, role, attempt)

    assert str(caught.value) == message


def test_a_run_that_has_not_started_has_no_logs(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="run: a has not started yet, so it has no logs"):
        logs.read(runs.make(tmp_path))


def test_following_goes_on_across_attempts_until_the_run_ends(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    log(run, 1, "train", "first\nha")
    steps = iter(
        [
            lambda: None,
            lambda: log(run, 1, "train", "lf\n"),
            lambda: log(run, 2, "train", "second\n"),
            lambda: log(run, 2, "judge-0", "last words"),
        ]
    )

    def ended() -> bool:
        step = next(steps, None)
        if step is not None:
            step()
        return step is None

    assert shown(logs.follow(run, ended)) == [
        "1 train first",
        "1 train half",
        "2 train second",
        "2 judge-0 last words",
    ]
