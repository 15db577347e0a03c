from __future__ import annotations

from typing import Any

import pytest

from eval import timeline
from eval.record import Steps
from orchestrator.ledger import Event


def event(at: float, name: str, generation: int = 1, **fields: Any) -> Event:
    return Event(at=at, generation=generation, event=name, fields=fields)


def test_a_restarted_role_has_one_bar_a_start() -> None:
    events = [
        event(0, "role_started", role="train", replica=0),
        event(40, "role_finished", role="train", replica=0, exit_code=-9, cause="killed by SIGKILL"),
        event(50, "role_started", role="train", replica=0),
        event(100, "role_finished", role="train", replica=0, exit_code=0, cause="done"),
    ]

    (lane,) = timeline.lanes(events)

    assert [(bar.left, bar.width, bar.kind) for bar in lane.bars] == [(0.0, 0.4, "bad"), (0.5, 0.5, "good")]


def test_a_role_that_has_not_ended_reaches_to_the_last_event() -> None:
    (judge, _) = timeline.lanes([event(0, "role_started", role="judge"), event(30, "role_started", role="train")])

    assert (judge.bars[0].seconds, judge.bars[0].note) == (30, "has not ended")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        pytest.param({"exit_code": 0, "cause": "done"}, "good", id="done"),
        pytest.param({"exit_code": 75, "cause": "drained"}, "warning", id="drained"),
        pytest.param({"exit_code": -15, "cause": "stopped (SIGTERM)"}, "plain", id="told to stop"),
        pytest.param({"exit_code": 1, "cause": "exit code 1: no such file"}, "bad", id="failed"),
    ],
)
def test_the_end_of_a_role_looks_like_what_it_was(fields: dict[str, Any], kind: str) -> None:
    assert timeline.kind(event(0, "role_finished", role="train", **fields)) == kind


def test_all_batch_roles_done_is_success_before_the_supervisor_says_so() -> None:
    done = [event(9, "role_finished", role="train", exit_code=0), event(10, "role_finished", role="eval", exit_code=0)]

    assert timeline.state(done, ["train", "eval"]) == "SUCCEEDED"
    assert timeline.state(done[:1], ["train", "eval"]) == "UNFINISHED"
    assert timeline.state([*done, event(11, "run_finished", state="CANCELLED")], ["train"]) == "CANCELLED"


def test_waiting_between_attempts_is_not_wall_time() -> None:
    events = [
        event(0, "submitted", generation=0),
        event(10, "attempt_started"),
        event(70, "run_finished"),
        event(1000, "attempt_started", generation=2),
        event(1040, "run_finished", generation=2),
    ]
    steps = Steps(rows=({"step": 1, "timing_s/step": 50.0},), redone=({"step": 1, "timing_s/step": 8.0},))

    assert timeline.attempts_s(events) == [60, 40]
    assert timeline.training_time(steps)[-1] == timeline.Span(name="steps done again", seconds=8.0)


def test_what_went_wrong_and_what_was_saved_are_marks_on_the_time_line() -> None:
    events = [
        event(0, "attempt_started", attempt=1, host="n1"),
        event(40, "checkpoint_committed", step=10),
        event(50, "drain_requested", by="SIGTERM on n4"),
        event(60, "role_finished", role="train", replica=0, exit_code=75, cause="drained"),
        event(60, "role_finished", role="judge", replica=0, exit_code=-15, cause="stopped (SIGTERM)"),
        event(80, "run_finished", state="DRAINED", kind="preempted", cause="Slurm preempts the job."),
        event(90, "role_finished", 2, role="train", replica=0, exit_code=-9, cause="killed by SIGKILL"),
        event(100, "run_finished", 2, state="SUCCEEDED", kind="done"),
    ]

    found = [(mark.kind, mark.left, mark.text) for mark in timeline.marks(events)]

    assert found == [
        ("checkpoint", 0.4, "checkpoint of step 10"),
        ("drain", 0.5, "draining, asked by SIGTERM on n4"),
        ("fault", 0.8, "attempt 1 drained (preempted): Slurm preempts the job."),
        ("fault", 0.9, "train: killed by SIGKILL"),
    ]


@pytest.mark.parametrize("kind", ["done", "cancelled", "drained", "time_limit", "superseded"])
def test_an_attempt_that_ended_as_planned_is_no_fault(kind: str) -> None:
    assert timeline.marks([event(1, "run_finished", state="DRAINED", kind=kind)]) == []


def test_no_events_have_no_marks() -> None:
    assert timeline.marks([]) == []
