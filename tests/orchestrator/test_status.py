from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest

from orchestrator import control, ledger, plan, status
from orchestrator.status import RoleStatus
from tests.orchestrator import runs
from tests.orchestrator.runs import say, tell


def states(now: status.Status) -> dict[str, str]:
    return {role.role: role.state for role in now.roles}


def test_a_role_is_followed_from_waiting_to_its_end(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    tell(run, 1, "attempt_started", attempt=1, host="here", pid=1)
    tell(run, 1, "role_started", role="tiny", replica=0)
    tell(run, 1, "role_finished", role="tiny", replica=0, exit_code=0, cause="done")
    tell(run, 1, "role_started", role="judge", replica=0)
    tell(run, 1, "run_finished", state="FAILED", cause="x", diagnosis="")

    assert states(status.read(run)) == {"tiny": "done", "judge": "stopped", "train": "waiting"}


def test_a_new_attempt_forgets_all_but_what_is_done(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    for name in ("tiny", "train"):
        tell(run, 1, "role_started", role=name, replica=0)
    tell(run, 1, "role_finished", role="tiny", replica=0, exit_code=0, cause="done")
    tell(run, 1, "role_finished", role="train", replica=0, exit_code=1, cause="exit code 1")
    tell(run, 2, "attempt_started", attempt=2, host="here", pid=1)

    assert states(status.read(run)) == {"tiny": "done", "judge": "waiting", "train": "waiting"}


def test_the_judge_of_a_pair_serves_on_through_a_new_attempt(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    the_plan = plan.load(run.plan)
    roles = tuple(dataclasses.replace(role, group=int(role.name == "judge")) for role in the_plan.roles)
    pair = dataclasses.replace(the_plan, roles=roles, placement=plan.Placement(kind="pair", why=""))
    run.plan.write_text(plan.to_json(pair))
    tell(run, 1, "service_ready", role="judge", replica=0, url="http://here:1/v1")
    tell(run, 1, "role_started", role="train", replica=0)
    tell(run, 2, "attempt_started", attempt=2, host="here", pid=os.getpid())
    control.own(run, 2)

    assert states(status.read(run))["judge"] == "serving"
    assert states(status.read(run))["train"] == "waiting"


def test_restarts_are_counted_with_their_cause(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    for number in (1, 2):
        tell(run, 1, "role_started", role="train", replica=0)
        tell(run, 1, "role_finished", role="train", replica=0, exit_code=-9, cause="killed by SIGKILL")
        tell(run, 1, "role_restarting", role="train", replica=0, restart=number, of=3, in_s=2, cause="killed")
    tell(run, 1, "run_finished", state="FAILED", cause="x", diagnosis="")

    train = status.read(run).roles[2]

    assert (train.restarts, train.message) == (2, "killed")


def test_a_waiting_role_says_for_whom(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    control.own(run, 1)  # this process poses as the supervisor
    tell(run, 1, "attempt_started", attempt=1, host="here", pid=1)
    tell(run, 1, "role_started", role="tiny", replica=0)

    now = status.read(run)

    assert now.state == "RUNNING"
    assert [status.line(role) for role in now.roles] == [
        "tiny: running",
        "judge: waiting: for tiny",
        "train: waiting: for judge",
    ]


def test_what_the_supervisor_waits_for_is_shown(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    control.own(run, 1)
    tell(run, 1, "attempt_started", attempt=1, host="here", pid=1)
    say(run, "run", phase="waiting", done=3, total=60, unit="s", message="for the report")

    assert status.read(run).doing == "waiting for the report"


def alive(run_name: str, **fields: object) -> RoleStatus:
    return RoleStatus(role=run_name, kind="batch", state="running", **fields)  # type: ignore[arg-type]


def test_what_a_role_says_is_shown_while_it_works(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    tell(run, 1, "role_started", role="train", replica=0)
    now = time.time()
    say(run, "train", phase="training", done=12, total=60, unit="steps", message="reward 0.83", started_at=now - 24)

    before = status.read(run).roles[2]
    # Without a live supervisor the run counts as lost, and then nothing works any more.
    assert before.phase == ""

    role = status.describe(RoleStatus(role="train", kind="batch", state="running"), run)
    assert (role.phase, role.done, role.total, role.message) == ("training", 12, 60, "reward 0.83")
    assert role.eta_s == pytest.approx(96, abs=1)


@pytest.mark.parametrize(
    ("role", "line"),
    [
        pytest.param(RoleStatus(role="a", kind="batch"), "a: waiting", id="not started"),
        pytest.param(RoleStatus(role="a", kind="batch", state="done", message="done"), "a: done", id="done"),
        pytest.param(
            RoleStatus(role="a", kind="batch", state="failed", message="exit code 1"),
            "a: failed: exit code 1",
            id="failed",
        ),
        pytest.param(
            alive("a", phase="training", done=12, total=60, unit="steps", message="reward 0.83", eta_s=192.4),
            "a: training 12/60 steps: reward 0.83 (ETA 3:12)",
            id="at work",
        ),
    ],
)
def test_a_role_in_one_line(role: RoleStatus, line: str) -> None:
    assert status.line(role) == line


def test_a_wait_has_no_estimated_end(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    say(run, "train", phase="waiting", done=3, total=240, unit="s", message="for the judge")

    assert status.describe(alive("train"), run).eta_s is None


def test_a_lost_run_names_the_earliest_error_in_its_logs(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    tell(run, 1, "attempt_started", attempt=1, host="here", pid=1)
    runs.log(run, 1, "train", "step 1\nValueError: no reward\n")

    now = status.read(run)

    assert now.state == "LOST"
    assert "train: ValueError: no reward" in now.diagnosis


def test_the_status_is_json(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    tell(run, 1, "attempt_started", attempt=1, host="here", pid=1, at=100.0)
    tell(run, 1, "run_finished", state="SUCCEEDED", cause="", diagnosis="", at=130.0)

    shown = json.loads(json.dumps(status.read(run).to_json()))

    assert (shown["schema"], shown["name"], shown["state"], shown["elapsed_s"]) == (1, "a", "SUCCEEDED", 30.0)
    assert [role["role"] for role in shown["roles"]] == ["tiny", "judge", "train"]


def test_every_event_that_matters_is_a_sentence(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    tell(run, 1, "attempt_started", attempt=1, host="here", pid=1)
    tell(run, 1, "role_started", role="train", replica=0)
    tell(run, 1, "service_ready", role="judge", replica=0, url="http://here:1/v1")
    tell(run, 1, "role_restarting", role="train", replica=0, restart=1, of=3, in_s=2.0, cause="killed by SIGKILL")
    tell(run, 1, "role_not_started", role="judge", replica=0, cause="srun: error: no controller")
    tell(run, 1, "service_job_queued", group="judge", job_id="7")
    tell(run, 1, "drain_requested", by="Ctrl-C")

    told = [status.story(event) for event in ledger.read(run.ledger)]

    assert list(filter(None, told)) == [
        "attempt 1 started on here",
        "judge answers at http://here:1/v1",
        "train starts again in 2.0 s, restart 1 of 3: killed by SIGKILL",
        "judge could not be started by Slurm, and is tried again: srun: error: no controller",
        "job 7 is queued to serve judge",
        "draining, asked by Ctrl-C",
    ]
