from __future__ import annotations

import pytest

from orchestrator.allocation import schedule
from orchestrator.allocation.schedule import Again, GiveUp, Phase, View
from orchestrator.plan import Placement, Plan, Restarts, Role

TINY = Role(name="tiny", job="tiny", kind="batch")
JUDGE = Role(name="judge", job="judge", kind="service", after=("tiny",), restarts=2, backoff_s=5.0)
TRAIN = Role(name="train", job="grpo", kind="batch", after=("tiny",), needs=("judge",), restarts=3, backoff_s=2.0)
EVAL = Role(name="eval", job="eval", kind="batch", after=("train",))


def plan_of(*roles: Role) -> Plan:
    return Plan(
        name="p",
        recipe="p.yaml",
        recipe_sha256="0" * 64,
        cluster="local",
        executor="local",
        placement=Placement(kind="local", why="a test"),
        time_limit_s=60,
        restarts=Restarts(),
        roles=roles,
    )


PLAN = plan_of(TINY, JUDGE, TRAIN, EVAL)


def view(*ready: str, **phases: Phase) -> View:
    return View(phases={role.name: phases.get(role.name, Phase.WAITING) for role in PLAN.roles}, ready=frozenset(ready))


def startable(now: View) -> list[str]:
    return [role.name for role in PLAN.roles if schedule.may_start(PLAN, role, now)]


def test_only_roles_without_predecessors_start_first() -> None:
    assert startable(view()) == ["tiny"]


def test_a_service_starts_after_its_predecessors_and_its_clients_wait_for_it() -> None:
    assert startable(view(tiny=Phase.SUCCEEDED)) == ["judge"]


def test_a_role_starts_when_the_service_it_needs_is_published() -> None:
    assert startable(view("judge", tiny=Phase.SUCCEEDED, judge=Phase.RUNNING)) == ["judge", "train"]


def test_a_finished_role_is_never_started_again() -> None:
    now = view("judge", tiny=Phase.SUCCEEDED, judge=Phase.RUNNING, train=Phase.SUCCEEDED)
    assert startable(now) == ["eval"]


def test_a_service_is_stopped_when_the_last_role_that_needs_it_has_succeeded() -> None:
    while_training = view("judge", tiny=Phase.SUCCEEDED, judge=Phase.RUNNING, train=Phase.RUNNING)
    after_training = view("judge", tiny=Phase.SUCCEEDED, judge=Phase.RUNNING, train=Phase.SUCCEEDED)
    assert schedule.to_stop(PLAN, while_training) == ()
    assert schedule.to_stop(PLAN, after_training) == ("judge",)


def test_a_service_is_kept_between_two_roles_that_need_it() -> None:
    later = Role(name="eval", job="eval", kind="batch", after=("train",), needs=("judge",))
    plan = plan_of(TINY, JUDGE, TRAIN, later)
    between = view("judge", tiny=Phase.SUCCEEDED, judge=Phase.RUNNING, train=Phase.SUCCEEDED)
    assert schedule.to_stop(plan, between) == ()


def test_a_service_needed_by_a_wanted_service_is_wanted() -> None:
    store = Role(name="store", job="store", kind="service")
    judge = Role(name="judge", job="judge", kind="service", needs=("store",))
    train = Role(name="train", job="grpo", kind="batch", needs=("judge",))
    plan = plan_of(store, judge, train)
    before = View(phases={"store": Phase.WAITING, "judge": Phase.WAITING, "train": Phase.WAITING})
    after = View(phases={"store": Phase.RUNNING, "judge": Phase.RUNNING, "train": Phase.SUCCEEDED})
    assert schedule.wanted(plan, store, before)
    assert not schedule.wanted(plan, store, after)


def test_blockers_name_what_is_waited_for() -> None:
    assert schedule.blockers(TRAIN, view()) == ("tiny", "judge")
    assert schedule.blockers(TRAIN, view("judge", tiny=Phase.SUCCEEDED)) == ()


def test_a_run_is_finished_when_all_batch_roles_have_succeeded_whatever_services_do() -> None:
    done = {"tiny": Phase.SUCCEEDED, "train": Phase.SUCCEEDED, "eval": Phase.SUCCEEDED, "judge": Phase.RUNNING}
    assert schedule.finished(PLAN, View(phases=done))
    assert not schedule.finished(PLAN, View(phases=done | {"eval": Phase.STOPPED}))


def test_a_plan_of_services_only_runs_until_it_is_stopped() -> None:
    plan = plan_of(Role(name="judge", job="judge", kind="service"))
    now = View(phases={"judge": Phase.RUNNING})
    assert schedule.to_stop(plan, now) == ()
    assert not schedule.finished(plan, now)


@pytest.mark.parametrize(
    ("restarts", "pause_s"),
    [(0, 0.0), (1, 2.0), (2, 4.0)],
)
def test_the_first_restart_is_immediate_and_pauses_then_double(restarts: int, pause_s: float) -> None:
    step = schedule.after_failure(TRAIN, Restarts(without_progress=9), code=1, restarts=restarts, fruitless=0)
    assert step == Again(in_s=pause_s, restart=restarts + 1, of=3)


def test_the_pause_never_exceeds_a_minute() -> None:
    patient = Role(name="judge", job="judge", kind="service", restarts=20, backoff_s=5.0)
    step = schedule.after_failure(patient, Restarts(), code=1, restarts=10, fruitless=0)
    assert step == Again(in_s=60.0, restart=11, of=20)


def test_a_spent_budget_fails_the_run() -> None:
    step = schedule.after_failure(JUDGE, Restarts(), code=1, restarts=2, fruitless=0)
    assert step == GiveUp(state="FAILED", cause="Role judge failed and its 2 restart(s) are used up.")


def test_restarts_without_a_new_checkpoint_end_in_a_crash_loop() -> None:
    step = schedule.after_failure(TRAIN, Restarts(without_progress=2), code=1, restarts=2, fruitless=2)
    cause = "Role train failed again after 2 restart(s) without a new checkpoint."
    assert step == GiveUp(state="CRASH_LOOP", cause=cause)


def test_wrong_input_is_not_tried_again() -> None:
    step = schedule.after_failure(TRAIN, Restarts(), code=2, restarts=0, fruitless=0)
    assert step == GiveUp(state="FAILED", cause="Role train says that its input is wrong; a restart mends no input.")
