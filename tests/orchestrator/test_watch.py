from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import control, watch
from orchestrator.run_directory import RunDirectory
from orchestrator.watch import Reader
from tests.orchestrator import runs
from tests.orchestrator.runs import say, tell

CHECKOUT = Path(__file__).resolve().parents[2]
BEGAN = 1_790_000_000.0


def metric(step: int, reward: float = 0.5, **more: Any) -> dict[str, Any]:
    known = {"step": step, "time": BEGAN + 100 + 4 * step, "timing_s/step": 4.0, "critic/rewards/mean": reward}
    return known | {"reward/accuracy": reward / 2, "judge/nan_frac": 0.25, "judge/latency_p50": 0.9} | more


def add(path: Path, *rows: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def ended(run: RunDirectory, state: str = "SUCCEEDED") -> None:
    tell(run, 1, "attempt_started", attempt=1, host="here", pid=1, at=BEGAN)
    tell(run, 1, "role_started", role="train", replica=0, at=BEGAN + 90)
    tell(run, 1, "checkpoint_committed", step=10, seconds=0.5, at=BEGAN + 141)
    tell(run, 1, "role_finished", role="train", replica=0, exit_code=0, cause="done", at=BEGAN + 200)
    tell(run, 1, "run_finished", state=state, kind="done", cause="", diagnosis="", at=BEGAN + 200)


def test_one_line_says_all_there_is(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    ended(run)
    add(run.metrics, *(metric(step, step / 10) for step in range(1, 11)))
    add(run.rollouts, *({"judge": {"latency_s": k / 100, "cached": k > 100}} for k in range(1, 150)))

    told = watch.line(Reader(run).read())

    assert told.endswith(
        "a SUCCEEDED, step 10, reward 1, accuracy 0.5, judge p50 0.50 s, p99 0.99 s, missing 25.0%, "
        "goodput 20% (start up 50%, drain 30%), next checkpoint at step 20, saved 10"
    )


def test_without_rollouts_the_99th_percentile_is_not_known(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    add(run.metrics, metric(1))

    judge = Reader(run).read().judge

    assert (judge.p50_s, judge.p99_s, judge.missing) == (0.9, None, 0.25)


def test_before_the_first_step_each_role_says_what_it_waits_for(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    tell(run, 1, "attempt_started", attempt=1, host="here", pid=1)
    control.own(run, 1)

    told = watch.line(Reader(run).read())

    assert "judge: waiting: for tiny" in told
    assert "train: waiting: for judge" in told


def test_only_what_is_new_in_the_log_is_read(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    add(run.metrics, metric(1), metric(2))
    reader = Reader(run)
    assert reader.read().step == 2

    with run.metrics.open("a") as file:
        file.write(json.dumps(metric(3, 0.75))[:30])
    assert reader.read().step == 2  # half a line
    with run.metrics.open("a") as file:
        file.write(json.dumps(metric(3, 0.75))[30:] + "\n")

    assert list(reader.read().curves["reward"]) == [0.5, 0.5, 0.75]


def test_what_a_resume_cuts_off_is_forgotten(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    add(run.metrics, *(metric(step) for step in range(1, 9)))
    reader = Reader(run)
    assert reader.read().step == 8

    run.metrics.write_text("")
    add(run.metrics, metric(1), metric(2, 0.25))

    assert list(reader.read().curves["reward"]) == [0.5, 0.25]


def test_eta_and_next_checkpoint_follow_from_the_pace_of_the_latest_steps(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    tell(run, 1, "attempt_started", attempt=1, host="here", pid=1)
    tell(run, 1, "role_started", role="train", replica=0)
    tell(run, 1, "checkpoint_committed", step=10, seconds=0.5)
    add(run.metrics, *(metric(step) for step in range(1, 13)))
    say(run, "train", phase="training", done=12, total=60, unit="steps")
    control.own(run, 1)

    told = watch.line(Reader(run).read())

    assert "a RUNNING, step 12/60, reward 0.5" in told
    assert told.endswith("next checkpoint at step 20 in 0:32, saved 10, ETA 3:12")


def test_a_run_that_stands_still_has_no_eta(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    ended(run, "DRAINED")
    add(run.metrics, metric(1))

    assert "ETA" not in watch.line(Reader(run).read())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([0.0, 0.5, 1.0], "▁▅█", id="rising"),
        pytest.param([3.0] * 5, "▄▄▄▄▄", id="level"),
        pytest.param([], "", id="nothing"),
        pytest.param([k // 20 for k in range(80)], "▁▃▆█", id="shared blocks"),
    ],
)
def test_sparklines(values: list[float], expected: str) -> None:
    assert watch.sparkline(values, 40 if len(values) < 10 else 4) == expected


def test_the_picture_fits_a_narrow_terminal_and_prints_what_roles_say_as_it_is(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    ended(run)
    tell(run, 1, "warning", what="[bold]judge[/bold]", cause="x" * 200)
    add(run.metrics, *(metric(step) for step in range(1, 100)))
    out = io.StringIO()

    Console(file=out, width=60, force_terminal=False).print(watch.picture(Reader(run).read()))

    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) == 60
    assert any("[bold]judge[/bold]" in line for line in lines)
    assert any("reward" in line and "▄" in line for line in lines)


def test_a_run_that_has_ended_is_told_and_its_state_is_the_exit_code(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    ended(run, "FAILED")
    out = io.StringIO()

    assert watch.watch(run, out, io.StringIO()) == control.EXIT_CODES["FAILED"]

    assert "a FAILED after 3:20." in out.getvalue()


def test_nothing_is_written_into_the_folder(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    ended(run)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}

    watch.watch(run, io.StringIO(), io.StringIO())

    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


@pytest.mark.parametrize(("key", "code"), [pytest.param("q", 0, id="q"), pytest.param("\x03", 130, id="Ctrl-C")])
def test_on_a_terminal_a_key_ends_the_watching_and_gives_the_terminal_back(tmp_path: Path, key: str, code: int) -> None:
    run = runs.make(tmp_path)
    tell(run, 0, "submitted")
    add(run.metrics, metric(1))
    say(run, "train", phase="training", done=1, total=60, unit="steps")
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "orchestrator", "watch", str(run.path)]
    # Ctrl-C is a signal to whom the terminal belongs, which is the leader of the session that opened it.
    command = ["setsid", "--ctty", "--wait", *command]
    process = subprocess.Popen(command, cwd=CHECKOUT, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    seen = shown(master, "q leaves")

    os.write(master, key.encode())

    assert process.wait(20) == code
    assert "reward" in seen
    os.close(master)


def shown(master: int, until: str, timeout_s: float = 20) -> str:
    seen, deadline = "", time.monotonic() + timeout_s
    while until not in seen and time.monotonic() < deadline:
        seen += os.read(master, 65536).decode(errors="replace")
    return seen


def test_without_a_terminal_an_interrupt_ends_it_too(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    command = [sys.executable, "-m", "orchestrator", "watch", str(run.path)]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert " a " in process.stdout.readline()

        process.send_signal(signal.SIGINT)

        assert process.wait(20) == 130
