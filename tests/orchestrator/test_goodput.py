"""Stories of runs with round numbers; every expected second was counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cli, goodput
from orchestrator.goodput import Goodput, Step
from orchestrator.ledger import Event
from tests.orchestrator import runs


def at(moment: float, event: str, generation: int = 1, **fields: Any) -> Event:
    return Event(at=moment, generation=generation, event=event, fields=fields)


def begins(moment: float, generation: int = 1) -> Event:
    return at(moment, "attempt_started", generation, attempt=generation)


def starts(moment: float, role: str, generation: int = 1) -> Event:
    return at(moment, "role_started", generation, role=role, replica=0)


def ends(moment: float, role: str, code: int = 0, generation: int = 1) -> Event:
    cause = {0: "done", 75: "drained"}.get(code, "killed")
    return at(moment, "role_finished", generation, role=role, replica=0, exit_code=code, cause=cause)


def saves(moment: float, step: int, seconds: float = 0.0, generation: int = 1) -> Event:
    return at(moment, "checkpoint_committed", generation, step=step, seconds=seconds)


def over(moment: float, state: str = "SUCCEEDED", kind: str = "done", generation: int = 1) -> Event:
    return at(moment, "run_finished", generation, state=state, kind=kind)


def step(number: int, end: float, took_s: float = 10, verdicts_s: float = 0.0) -> Step:
    return Step(number=number, end=end, took_s=took_s, verdicts_s=verdicts_s)


def measured(events: list[Event], steps: list[Step], now: float = 10_000) -> Goodput:
    found = goodput.measure(events, steps, trainers={"train"}, now=now)
    assert sum(found.seconds.values()) == pytest.approx(found.allocated_s, abs=0.2)
    return found


def nonzero(found: Goodput) -> dict[str, float]:
    return {cause: seconds for cause, seconds in found.seconds.items() if seconds}


UNDISTURBED = [
    at(0, "submitted", 0),
    begins(30),
    starts(32, "tiny"),
    ends(42, "tiny"),
    starts(42, "judge"),
    at(62, "service_ready", role="judge", replica=0),
    starts(62, "train"),
    saves(95, 2, seconds=5),
    ends(97, "train"),
    at(98, "role_finished", role="judge", replica=0, exit_code=0, cause="stopped"),
    over(100),
]


def test_an_undisturbed_run() -> None:
    found = measured(UNDISTURBED, [step(1, 80), step(2, 90)])

    assert (found.allocated_s, found.queue_s, found.attempts, found.steps) == (70, 30, 1, 2)
    assert nonzero(found) == {
        "productive": 20,
        "checkpoint": 5,
        "judge_wait": 20,
        "start_up": 10,  # 30 to 32, and 62 to 70
        "other_roles": 10,
        "drain": 2,  # the trainer's end
        "idle": 3,
    }
    assert found.goodput == pytest.approx(20 / 70, abs=1e-4)
    assert found.training_goodput == pytest.approx(20 / 60, abs=1e-4)


def test_steps_that_are_done_again_are_lost_work_and_counted_once() -> None:
    events = [
        begins(0),
        starts(0, "train"),
        saves(20, 1),
        # Steps 2 and 3 ran from 20 to 40; the trainer is killed at 45.
        ends(45, "train", -9),
        starts(47, "train"),
        saves(90, 4),
        ends(90, "train"),
        over(90),
    ]

    found = measured(events, [step(1, 20), step(2, 70), step(3, 80), step(4, 90)])

    assert nonzero(found) == {"productive": 40, "lost_work": 25, "start_up": 10 + 2 + 13}


def test_a_trainer_whose_steps_were_all_lost_started_up_as_fast_as_the_others() -> None:
    events = [
        begins(0),
        starts(0, "train"),
        ends(40, "train", -9),
        starts(40, "train"),
        saves(60, 1),
        ends(60, "train"),
        over(60),
    ]

    found = measured(events, [step(1, 60)])

    assert nonzero(found) == {"productive": 10, "start_up": 10 + 10, "lost_work": 30}


def test_a_preempted_run() -> None:
    events = [
        at(0, "submitted", 0),
        begins(10),
        starts(10, "train"),
        at(11, "successor_queued", job_id="2", after="1"),
        at(35, "drain_requested", by="SIGUSR2"),
        saves(38, 2, seconds=3),
        ends(39, "train", 75),
        over(40, "DRAINED", "preempted"),
        begins(45, 2),
        starts(45, "train", 2),
        saves(65, 3, generation=2),
        ends(65, "train", 0, 2),
        over(65, generation=2),
    ]

    found = measured(events, [step(1, 25), step(2, 35), step(3, 65)])

    assert (found.queue_s, found.allocated_s, found.ended) == (15, 50, {"preempted": 1})
    assert nonzero(found) == {"productive": 30, "checkpoint": 3, "start_up": 5 + 10, "drain": 2}


def test_a_run_that_a_person_continued_later_was_not_in_the_queue() -> None:
    events = [
        at(0, "submitted", 0),
        begins(0),
        over(10, "DRAINED", "drained"),
        begins(5000, 2),
        over(5010, generation=2),
    ]

    found = measured(events, [])

    assert (found.queue_s, found.allocated_s) == (0, 20)


def test_a_judge_that_is_away_delays_a_step_by_what_it_waited_for_verdicts() -> None:
    events = [
        begins(0),
        starts(0, "judge"),
        at(0, "service_ready", role="judge", replica=0),
        starts(0, "train"),
        at(25, "role_finished", role="judge", replica=0, exit_code=-9, cause="killed"),
        at(35, "service_ready", role="judge", replica=0),
        saves(60, 2),
        ends(60, "train"),
        over(60),
    ]

    found = measured(events, [step(1, 20, 20), step(2, 60, 40, verdicts_s=8)])

    assert nonzero(found) == {"productive": 52, "judge_wait": 8}


def test_a_second_replica_keeps_the_judge_answering() -> None:
    events = [
        begins(0),
        at(0, "role_started", role="judge", replica=0),
        at(0, "role_started", role="judge", replica=1),
        at(0, "service_ready", role="judge", replica=0),
        at(0, "service_ready", role="judge", replica=1),
        starts(0, "train"),
        at(5, "role_finished", role="judge", replica=1, exit_code=-9, cause="killed"),
        saves(20, 1),
        ends(20, "train"),
        over(20),
    ]

    assert nonzero(measured(events, [step(1, 20, 20, verdicts_s=10)])) == {"productive": 20}


def test_a_live_run_is_counted_until_now_with_its_unsaved_steps_apart() -> None:
    events = [begins(0), starts(0, "train"), saves(20, 1)]

    found = measured(events, [step(1, 20), step(2, 30)], now=35)

    assert nonzero(found) == {"productive": 10, "unsaved": 15, "start_up": 10}


def test_an_attempt_that_left_no_word_ended_when_slurm_says() -> None:
    events = [
        begins(0),
        starts(0, "train"),
        saves(20, 1),
        at(21, "successor_queued", job_id="2", after="1"),
        begins(100, 2),
        at(100, "attempt_lost", 2, attempt=1, kind="node_failure", ended_at=50.0),
        starts(100, "train", 2),
        saves(120, 2, generation=2),
        ends(120, "train", 0, 2),
        over(120, generation=2),
    ]

    found = measured(events, [step(1, 20), step(2, 120)])

    assert (found.allocated_s, found.queue_s, found.ended) == (70, 50, {"node_failure": 1})
    assert nonzero(found) == {"productive": 20, "start_up": 10 + 10, "lost_work": 30}


def test_a_run_that_still_waits_has_only_been_in_the_queue() -> None:
    found = measured([at(0, "submitted", 0)], [], now=60)

    assert (found.goodput, found.queue_s, found.allocated_s) == (0, 60, 0)


def test_steps_are_read_from_the_metrics(tmp_path: Path) -> None:
    lines = [{"step": 1, "time": 20.0, "timing_s/step": 10.0, "timing_s/reward": 1.5}, {"step": 2, "time": 21.0}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "ti')

    assert goodput.steps(path) == [step(1, 20, 10, verdicts_s=1.5)]
    assert goodput.steps(tmp_path / "none") == []


def test_the_table_names_every_cause() -> None:
    lines = goodput.table("a", measured(UNDISTURBED, [step(1, 80), step(2, 90)]))

    assert lines[0] == (
        "a: goodput 0.29 of 70 s allocated, 0.33 of training's share. 2 steps committed; attempts: 1, role restarts: 0."
    )
    assert "  productive        20.0 s   28.6%  committed steps" in lines
    assert len(lines) == 2 + len(goodput.CAUSES)


def test_the_command_prints_the_table_or_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.make(tmp_path)
    runs.tell(run, 1, "attempt_started", at=100.0, attempt=1)
    runs.tell(run, 1, "run_finished", at=110.0, state="SUCCEEDED", kind="done")
    monkeypatch.setenv("ORCH_RUNS", str(tmp_path))

    cli.app(["goodput", "a", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["allocated_s"] == 10.0
    cli.app(["goodput", "a"], standalone_mode=False)
    assert capsys.readouterr().out.startswith("a: goodput 0.00 of 10 s allocated")
