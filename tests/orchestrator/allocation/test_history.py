from __future__ import annotations

from typing import Any

import pytest

from orchestrator.allocation import history
from orchestrator.allocation.history import Attempt
from orchestrator.ledger import Event
from orchestrator.plan import Restarts


def event(generation: int, name: str, **fields: Any) -> Event:
    return Event(at=0.0, generation=generation, event=name, fields=fields)


def ended(*kinds: str, progressed: bool = True) -> list[Attempt]:
    return [Attempt(number=n, kind=kind, progressed=progressed) for n, kind in enumerate(kinds, 1)]


def test_attempts_are_folded_from_the_ledger() -> None:
    events = [
        event(0, "submitted"),
        event(1, "attempt_started", job_id="7"),
        event(1, "checkpoint_committed", step=3),
        event(1, "run_finished", state="DRAINED", kind="preempted"),
        event(2, "attempt_started", job_id="8"),
        event(3, "attempt_lost", attempt=2, kind="node_failure"),
        event(3, "attempt_started", job_id="9"),
    ]
    assert history.attempts(events) == [
        Attempt(number=1, kind="preempted", progressed=True, job="7"),
        Attempt(number=2, kind="node_failure", progressed=False, job="8", ended=False),
        Attempt(number=3, kind="unknown", progressed=False, job="9", ended=False),
    ]


def test_a_finished_batch_role_is_progress_and_a_failed_one_is_not() -> None:
    begun = event(1, "attempt_started")
    done, failed = event(1, "role_finished", cause="done"), event(1, "role_finished", cause="exit code 1")
    assert history.attempts([begun, done])[0].progressed
    assert not history.attempts([begun, failed])[0].progressed


def test_a_thousand_preemptions_use_no_budget() -> None:
    assert history.verdict(Restarts(crash=0), ended(*["preempted"] * 1000, progressed=False)) is None


@pytest.mark.parametrize(("kind", "allowed"), [("crash", 3), ("node_failure", 10)])
def test_each_cause_has_a_budget_of_its_own(kind: str, allowed: int) -> None:
    others = ["preempted", "time_limit"] * 5
    assert history.verdict(Restarts(), ended(*others, *[kind] * allowed)) is None
    stop = history.verdict(Restarts(), ended(*others, *[kind] * (allowed + 1)))
    assert stop is not None
    assert stop.state == "FAILED"
    assert f"{allowed + 1} times" in stop.cause


def test_attempts_without_progress_are_a_loop_even_if_no_budget_is_used_up() -> None:
    loop = ended("time_limit", "crash", "node_failure", progressed=False)
    stop = history.verdict(Restarts(without_progress=3), loop)
    assert stop is not None
    assert stop.state == "CRASH_LOOP"
    with_progress = [*loop[:2], Attempt(number=3, kind="node_failure", progressed=True)]
    assert history.verdict(Restarts(without_progress=3), with_progress) is None


def test_the_pause_grows_with_crashes_in_a_row_and_not_with_others() -> None:
    def pause_s(*kinds: str) -> float:
        return history.pause_s(ended(*kinds, progressed=False), 60.0)

    assert [pause_s(*["crash"] * n) for n in range(1, 6)] == [0, 60, 120, 240, 480]
    assert pause_s("crash", "crash", "preempted") == 0
    assert history.pause_s(ended("crash", "crash"), 60.0) == 0


def test_a_node_is_blamed_after_two_failures_of_one_role_in_a_row() -> None:
    def failed(role: str, node: str) -> Event:
        return event(1, "role_finished", role=role, nodes_blamed=[node])

    assert history.blamed([failed("train", "n1"), failed("train", "n1")]) == ("n1",)
    assert history.blamed([failed("train", "n1"), failed("train", "n2"), failed("train", "n1")]) == ()
    assert history.blamed([failed("train", "n1"), failed("judge", "n1")]) == ()


def test_a_resume_begins_all_budgets_anew() -> None:
    loop = [Attempt(number=n, kind="crash", progressed=False, job=str(n)) for n in (1, 2, 3)]
    again = [*loop, Attempt(number=4, kind="preempted", progressed=False, job="9")]
    assert history.verdict(Restarts(), history.since_submitted(again, "1")) is not None
    assert history.since_submitted(again, "9") == again[3:]
    assert history.since_submitted(again, "") == again


def test_a_role_that_drains_unasked_again_and_again_is_a_loop() -> None:
    stop = history.verdict(Restarts(without_progress=3), ended("drained", "drained", "drained", progressed=False))
    assert stop is not None
    assert stop.state == "CRASH_LOOP"


def test_why_slurm_stopped_an_attempt_is_known_though_it_could_not_end_in_order() -> None:
    events = [event(1, "attempt_started", job_id="7"), event(1, "drain_understood", kind="preempted")]
    assert history.attempts(events) == [Attempt(number=1, kind="preempted", progressed=False, job="7", ended=False)]
