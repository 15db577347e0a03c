"""The supervisor with real processes: fake roles, real guards, a real gateway, real signals."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from orchestrator import control, processes
from orchestrator.files import write_json
from tests.orchestrator.allocation.runs import (
    batch,
    events,
    last,
    make_run,
    processes_of,
    service,
    supervise,
    wait_for,
    wait_for_event,
)

TOO_LONG_S = 60.0


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)


def test_roles_run_in_order_and_reach_the_service_through_the_gateway(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        batch("tiny"),
        service("judge", after=("tiny",)),
        batch("train", after=("tiny",), needs=("judge",), settings={"ask": "judge"}),
        batch("eval", after=("train",), needs=("judge",), settings={"ask": "judge"}),
    )

    assert supervise(run).wait(TOO_LONG_S) == 0

    started = [event.fields["role"] for event in events(run, "role_started") if event.fields["role"] != "gateway"]
    assert started == ["tiny", "judge", "train", "eval"]
    assert json.loads((run.path / "eval.answer").read_text()) == {"from": "start 1"}
    names = [event.event for event in events(run)]
    assert names[0] == "attempt_started"
    assert names[-1] == "run_finished"
    assert last(run) == {"state": "SUCCEEDED", "kind": "done", "cause": "", "diagnosis": ""}
    assert control.state(run).state == "SUCCEEDED"
    assert processes_of(run) == []
    assert list(run.endpoints.iterdir()) == []
    assert run.latest.readlink() == Path("1")


def test_the_judge_outlives_the_trainer(tmp_path: Path) -> None:
    run = make_run(tmp_path, service("judge"), batch("train", needs=("judge",), settings={"sleep_s": 30}))
    supervisor = supervise(run)
    wait_for_event(run, "role_started", role="train")

    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(TOO_LONG_S) == 75

    ended = [event.fields["role"] for event in events(run, "role_finished")]
    assert ended == ["train", "judge"]
    assert last(run)["state"] == "DRAINED"


def test_a_failed_role_is_started_again_and_the_run_succeeds(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train", settings={"fail": 1, "times": 2, "say": ["ValueError: bad luck"]}))

    assert supervise(run).wait(TOO_LONG_S) == 0

    again = [event.fields for event in events(run, "role_restarting")]
    assert [(step["restart"], step["of"], step["in_s"]) for step in again] == [(1, 3, 0.0), (2, 3, 0.05)]
    assert again[0]["cause"] == "exit code 1: ValueError: bad luck"


def test_a_role_killed_by_a_signal_is_started_again(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train", settings={"sleep_s": 60, "times": 1}))
    supervisor = supervise(run)
    wait_for(lambda: (run.path / "train.starts").exists(), "the start")
    kill(wait_for_event(run, "role_started", role="train").fields["pid"])

    assert supervisor.wait(TOO_LONG_S) == 0

    assert [event.fields["exit_code"] for event in events(run, "role_finished")] == [-9, 0]
    assert events(run, "role_restarting")[0].fields["cause"] == "killed by SIGKILL"


@pytest.mark.slow
def test_a_role_whose_guard_is_killed_leaves_nothing_behind_and_is_started_again(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train", settings={"sleep_s": 1, "drain": "ignore", "spawn": True}))
    supervisor = supervise(run)
    pid = wait_for_event(run, "role_started", role="train").fields["pid"]
    file = run.path / "train.grandchild"
    grandchild = int(wait_for(lambda: file.exists() and file.read_text(), "the grandchild"))
    first = processes.find(pid)
    assert first is not None
    kill(first.parent)

    assert supervisor.wait(TOO_LONG_S) == 0

    assert processes.find(pid) is None
    assert processes.find(grandchild) is None
    assert processes_of(run) == []


@pytest.mark.slow
def test_a_killed_service_is_started_again_and_requests_go_to_the_new_one(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        service("judge"),
        batch("train", needs=("judge",), settings={"sleep_s": 1}),
        batch("eval", after=("train",), needs=("judge",), settings={"ask": "judge"}),
    )
    supervisor = supervise(run)
    wait_for_event(run, "role_started", role="train")
    kill(events(run, "role_started", role="judge")[0].fields["pid"])

    assert supervisor.wait(TOO_LONG_S) == 0

    assert json.loads((run.path / "eval.answer").read_text()) == {"from": "start 2"}
    assert len(events(run, "service_ready", role="judge")) == 2


@pytest.mark.slow
def test_a_killed_gateway_is_started_again_on_the_same_url(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        service("judge"),
        batch("train", needs=("judge",), settings={"sleep_s": 2}),
        batch("eval", after=("train",), needs=("judge",), settings={"ask": "judge"}),
    )
    supervisor = supervise(run)
    wait_for_event(run, "role_started", role="train")
    kill(events(run, "role_started", role="gateway")[0].fields["pid"])

    assert supervisor.wait(TOO_LONG_S) == 0

    assert [event.fields for event in events(run, "gateway_restarted")] == [{"cause": "killed by SIGKILL"}]
    urls = [event.fields["url"] for event in events(run, "gateway_ready")]
    assert len(urls) == 2
    assert urls[0] == urls[1]
    assert json.loads((run.path / "eval.answer").read_text()) == {"from": "start 1"}


@pytest.mark.slow
def test_a_gateway_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        service("judge"),
        batch("train", needs=("judge",), settings={"sleep_s": 40}),
        batch("eval", after=("train",), needs=("judge",), settings={"ask": "judge"}),
    )
    supervisor = supervise(run)
    wait_for_event(run, "role_started", role="train")
    kill(events(run, "role_started", role="gateway")[0].fields["pid"], signal.SIGSTOP)

    assert supervisor.wait(TOO_LONG_S * 2) == 0

    assert [event.fields for event in events(run, "gateway_restarted")] == [{"cause": "silent for 20 s"}]
    assert (run.path / "eval.answer").exists()


def test_a_spent_budget_fails_the_run_with_the_earliest_error_last(tmp_path: Path) -> None:
    told = ["starting", "Traceback (most recent call last):", '  File "x.py", line 1', "KeyError: 'weights'"]
    run = make_run(
        tmp_path,
        batch("train", restarts=1, settings={"fail": 3, "say": told}),
    )

    assert supervise(run).wait(TOO_LONG_S) == 1

    assert last(run)["state"] == "FAILED"
    assert last(run)["cause"].startswith("Role train failed and its 1 restart(s) are used up.")
    assert last(run)["diagnosis"].endswith("train: KeyError: 'weights' (attempts/1/train.log:2)")
    printed = (run.attempt(1) / "supervisor.log").read_text().splitlines()
    assert printed[-1] == "train: KeyError: 'weights' (attempts/1/train.log:2)"
    assert control.state(run).diagnosis == last(run)["diagnosis"]


@pytest.mark.slow
def test_the_earliest_error_is_another_roles_than_the_one_that_ended_the_run(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        batch("data", settings={"say": ["error: disk is full."], "sleep_s": 20}),
        batch("train", restarts=0, settings={"sleep_s": 2.5, "fail": 1, "say": []}),
    )

    assert supervise(run).wait(TOO_LONG_S) == 1

    assert last(run)["cause"].startswith("Role train failed")
    assert last(run)["diagnosis"] == "data: error: disk is full. (attempts/1/data.log:1)"


def test_restarts_without_a_new_checkpoint_end_in_a_crash_loop(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train", restarts=9, settings={"fail": 1}), without_progress=2)

    assert supervise(run).wait(TOO_LONG_S) == 6

    assert last(run)["state"] == "CRASH_LOOP"
    assert len(events(run, "role_started")) == 3


@pytest.mark.slow
def test_a_role_that_commits_before_it_fails_is_in_no_crash_loop(tmp_path: Path) -> None:
    settings = {"fail": 1, "times": 4, "checkpoint": True}
    run = make_run(tmp_path, batch("train", restarts=9, settings=settings), without_progress=2)

    assert supervise(run).wait(TOO_LONG_S) == 0

    assert len(events(run, "role_started")) == 5


def test_a_service_that_does_not_answer_in_time_has_failed(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        service("judge", restarts=0, start_timeout_s=1.0, settings={"never": True}),
        batch("train", needs=("judge",)),
    )

    assert supervise(run).wait(TOO_LONG_S) == 1

    assert last(run)["diagnosis"] == "judge: did not answer within 1 s."
    assert events(run, "role_started", role="train") == []


def test_cancel_drains_and_ends_as_cancelled(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train", settings={"sleep_s": 30}))
    supervisor = supervise(run)
    wait_for(lambda: (run.path / "train.starts").exists(), "the start")

    control.cancel(run, "a test")
    control.cancel(run, "a test")
    assert supervisor.wait(TOO_LONG_S) == 5

    assert last(run) == {"state": "CANCELLED", "kind": "cancelled", "cause": "Cancelled by a test.", "diagnosis": ""}
    assert events(run, "role_finished")[0].fields["exit_code"] == 75
    assert len(events(run, "drain_requested")) == 1


def test_the_time_limit_drains_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train", settings={"sleep_s": 30}), time_limit_s=1)

    assert supervise(run).wait(TOO_LONG_S) == 75

    assert last(run)["cause"] == "The time limit of 1 s is reached."


def test_a_role_that_does_not_drain_is_killed_with_all_it_started(tmp_path: Path) -> None:
    settings = {"sleep_s": 30, "drain": "ignore", "spawn": True}
    run = make_run(tmp_path, batch("train", drain_s=0.5, settings=settings))
    supervisor = supervise(run)
    wait_for(lambda: (run.path / "train.grandchild").exists(), "the grandchild")

    supervisor.send_signal(signal.SIGUSR2)
    assert supervisor.wait(TOO_LONG_S) == 75

    assert events(run, "role_finished")[0].fields["exit_code"] == -9
    assert processes_of(run) == []


def test_what_a_finished_role_leaves_behind_dies_with_it(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, batch("train", settings={"spawn": True}), batch("eval", after=("train",), settings={"sleep_s": 0})
    )

    assert supervise(run).wait(TOO_LONG_S) == 0

    assert (run.path / "train.grandchild").exists()
    assert processes_of(run) == []


def test_a_role_that_drains_by_itself_ends_the_run_as_drained(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train", settings={"fail": 75}))

    assert supervise(run).wait(TOO_LONG_S) == 75

    assert last(run)["cause"] == "Role train drained."


def test_a_killed_supervisor_leaves_nothing_behind_and_the_run_is_lost(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        service("judge"),
        batch("train", needs=("judge",), drain_s=1.0, settings={"sleep_s": 60, "drain": "ignore", "spawn": True}),
    )
    supervisor = supervise(run)
    wait_for(lambda: (run.path / "train.grandchild").exists(), "the grandchild")

    supervisor.kill()
    supervisor.wait()
    killed = time.monotonic()
    wait_for(lambda: not processes_of(run), "the end of all processes", timeout_s=8.0)

    print(f"gone after {time.monotonic() - killed:.1f} s")
    lost = control.state(run)
    assert lost.state == "LOST"
    assert lost.exit_code == 1
    assert lost.cause.startswith(f"The supervisor (pid {supervisor.pid} on ")


@pytest.mark.slow
def test_the_next_attempt_ends_what_is_left_and_does_not_repeat_finished_roles(tmp_path: Path) -> None:
    settings = {"sleep_s": 3, "drain": "ignore"}
    run = make_run(tmp_path, batch("tiny"), batch("train", after=("tiny",), drain_s=60.0, settings=settings))
    first = supervise(run)
    pid = wait_for_event(run, "role_started", role="train").fields["pid"]
    wait_for(lambda: (run.path / "train.starts").exists(), "the start")
    first.kill()
    first.wait()

    assert supervise(run).wait(TOO_LONG_S) == 0

    assert processes.find(pid) is None
    assert len((run.path / "tiny.starts").read_text().splitlines()) == 1
    assert [line.split()[0] for line in (run.path / "train.starts").read_text().splitlines()] == ["1", "2"]
    assert last(run)["state"] == "SUCCEEDED"
    assert run.latest.readlink() == Path("2")


def test_a_second_supervisor_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train", settings={"sleep_s": 60}))
    first = supervise(run)
    wait_for(lambda: (run.path / "train.starts").exists(), "the start")

    assert supervise(run).wait(TOO_LONG_S) == 3

    first.send_signal(signal.SIGTERM)
    assert first.wait(TOO_LONG_S) == 75
    assert len(events(run, "attempt_started")) == 1


@pytest.mark.slow
def test_of_many_supervisors_started_at_once_one_runs(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train", settings={"sleep_s": 4}))

    codes = [supervisor.wait(TOO_LONG_S) for supervisor in [supervise(run) for _ in range(5)]]

    assert sorted(codes) == [0, 3, 3, 3, 3]
    assert len((run.path / "train.starts").read_text().splitlines()) == 1


def test_a_finished_run_started_again_ends_at_once_and_writes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train"))
    assert supervise(run).wait(TOO_LONG_S) == 0
    before = run.ledger.read_bytes()

    assert supervise(run).wait(TOO_LONG_S) == 0

    assert run.ledger.read_bytes() == before


def test_a_cancel_that_came_before_the_start_is_obeyed(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train"))
    write_json(control.cancel_file(run), {"by": "a test", "at": 0, "attempt": 0})

    assert supervise(run).wait(TOO_LONG_S) == 5

    assert events(run, "role_started") == []


def test_a_supervisor_says_what_it_waits_for_and_until_when(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        service("judge", start_timeout_s=50.0, settings={"never": True}),
        batch("train", needs=("judge",)),
    )
    supervisor = supervise(run)
    try:
        said = wait_for(lambda: _said(run.progress / "run.json", "judge starts"), "a heartbeat")
    finally:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(TOO_LONG_S)

    assert said["total"] == 120
    assert said["message"].endswith("s of 50 s; train waits for judge")


def _said(path: Path, what: str) -> dict[str, object] | None:
    snapshot: dict[str, object] = json.loads(path.read_text()) if path.exists() else {}
    return snapshot if what in str(snapshot.get("message")) else None


def test_no_key_is_in_argv_logs_or_readable_files(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, service("judge"), batch("train", needs=("judge",), settings={"ask": "judge", "sleep_s": 60})
    )
    supervisor = supervise(run)
    wait_for(lambda: (run.path / "train.answer").exists(), "the answer")
    keys = {path: path.read_text() for path in run.secrets.glob("*.key")}
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of(run) if Path(f"/proc/{pid}").exists()]
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(TOO_LONG_S) == 75

    files = [path for path in run.path.rglob("*") if path.is_file() and path.parent != run.secrets]
    assert sorted(path.name for path in keys) == ["judge-backend.key", "judge.key"]
    for place, key in keys.items():
        assert all(key.encode() not in command for command in commands)
        assert all(key not in path.read_text(errors="replace") for path in files)
        assert place.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_a_role_that_stops_saying_what_it_does_is_started_again(tmp_path: Path) -> None:
    role = batch("train", settings={"hang": True, "times": 1}, hung_after_s=1.0, drain_s=0.5)
    run = make_run(tmp_path, role)

    assert supervise(run).wait(TOO_LONG_S) == 0

    cause = events(run, "role_restarting")[0].fields["cause"]
    assert cause.startswith("has said nothing for 1 s; the last was 'training'")


def test_a_role_that_never_says_what_it_does_is_left_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch("train", settings={"sleep_s": 1.5}, hung_after_s=0.3))

    assert supervise(run).wait(TOO_LONG_S) == 0
    assert events(run, "role_restarting") == []
