from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator import control, follow, status
from orchestrator.status import RoleStatus, Status
from tests.orchestrator import runs
from tests.orchestrator.runs import tell


def a_status(*roles: RoleStatus, state: str = "RUNNING", doing: str = "") -> Status:
    return Status(
        name="a",
        path="/runs/a",
        state=state,
        attempt=1,
        cause="",
        diagnosis="",
        began_at=0.0,
        ended_at=151.0,
        doing=doing,
        report=None,
        roles=roles,
    )


def training(done: float, **fields: object) -> RoleStatus:
    known = {"phase": "training", "total": 60, "unit": "steps", "message": "reward 0.83"} | fields
    return RoleStatus(role="train", kind="batch", state="running", done=done, **known)  # type: ignore[arg-type]


def test_a_run_that_has_ended_is_told_at_once_and_its_state_is_the_exit_code(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    tell(run, 1, "attempt_started", attempt=1, host="here", pid=1, at=100.0)
    tell(run, 1, "run_finished", state="CRASH_LOOP", cause="train crashed 3 times.", diagnosis="train: boom", at=105.0)
    out = io.StringIO()

    code = follow.watch(run, out)

    assert code == control.EXIT_CODES["CRASH_LOOP"] == 6
    assert out.getvalue().endswith(
        "a CRASH_LOOP after 0:05. train crashed 3 times.\n"
        "The earliest error:\n"
        "train: boom\n"
        f"Logs: {run.path}/attempts/1\n"
        "Continue with: python -m orchestrator resume a\n"
    )


def test_a_success_names_the_report_and_no_way_out(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    run.report.write_text("<html>")
    tell(run, 1, "attempt_started", attempt=1, host="here", pid=1, at=100.0)
    tell(run, 1, "run_finished", state="SUCCEEDED", cause="", diagnosis="", at=170.0)

    assert follow.ending(status.read(run)) == f"a SUCCEEDED after 1:10.\nReport: {run.report}"


def test_without_a_terminal_a_new_phase_is_a_line_and_new_numbers_wait() -> None:
    out = io.StringIO()
    lines = follow.Lines(out)

    lines.show(a_status(training(1)))
    lines.show(a_status(training(2)))
    lines.show(a_status(training(0, phase="saving", total=None, message="")))

    assert out.getvalue() == ("[2:31] train: training 1/60 steps: reward 0.83\n[2:31] train: saving\n")


def test_numbers_are_printed_when_their_time_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PRINT_EVERY_S", 0.0)
    out = io.StringIO()
    lines = follow.Lines(out)

    for done in (1, 2, 2):
        lines.show(a_status(training(done)))

    assert out.getvalue() == (
        "[2:31] train: training 1/60 steps: reward 0.83\n[2:31] train: training 2/60 steps: reward 0.83\n"
    )


def test_what_the_supervisor_waits_for_is_told_once() -> None:
    out = io.StringIO()
    lines = follow.Lines(out)

    for doing in ("", "waiting for the report", "waiting for the report", ""):
        lines.show(a_status(doing=doing))

    assert out.getvalue() == "[2:31] waiting for the report\n"


def drawn(*roles: RoleStatus) -> list[str]:
    console = Console(file=io.StringIO(), width=90, force_terminal=True, color_system=None)
    console.print(follow.bars(a_status(*roles)))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_terminal_shows_a_bar_with_the_time_left() -> None:
    lines = drawn(RoleStatus(role="judge", kind="service", state="waiting"), training(30, eta_s=192.4))

    assert lines[0].strip() == "a RUNNING, attempt 1, 2:31"
    assert lines[1] == "judge waiting"
    assert lines[2] == "train training ━━━━━━━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌ 30/60 steps  ETA 3:12  reward 0.83"


def test_what_a_role_says_is_not_taken_for_markup() -> None:
    assert "[bold]x[/]" in drawn(training(1, message="[bold]x[/]"))[1]


def test_a_narrow_terminal_shortens_the_message_and_nothing_else() -> None:
    line = drawn(training(30, message="x" * 200))[1]

    assert line.startswith("train training ━")
    assert len(line) <= 90
    assert line.endswith("…")
