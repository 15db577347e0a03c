from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import pytest

from orchestrator.allocation import service_jobs
from orchestrator.allocation.schedule import Phase
from orchestrator.allocation.service_job import Lease
from orchestrator.allocation.service_jobs import ServiceJobs
from orchestrator.files import write_json
from orchestrator.ledger import Ledger, read
from orchestrator.plan import Group, Placement, Plan, Restarts, Role
from orchestrator.run_directory import RunDirectory

PLAN = Plan(
    name="r",
    recipe="r.yaml",
    recipe_sha256="0",
    cluster="c",
    executor="slurm",
    placement=Placement(kind="pair", why=""),
    time_limit_s=60,
    restarts=Restarts(),
    roles=(
        Role(name="judge", job="judge", kind="service", group=1),
        Role(name="critic", job="judge", kind="service", group=1, first_node=1),
        Role(name="train", job="grpo", kind="batch", needs=("judge", "critic")),
    ),
    groups=(Group(name="train", nodes=1), Group(name="judge", nodes=2)),
)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    found = RunDirectory(tmp_path / "run")
    found.create()
    return found


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []

    def queue(_run: RunDirectory, _plan: Plan, *, group: int) -> str:
        found.append(group)
        return str(100 + len(found))

    monkeypatch.setattr(service_jobs.slurm, "queue_service", queue)
    return found


def kept(jobs: ServiceJobs) -> str:
    """Keep them until nothing is being asked any more."""
    failure = jobs.keep(["judge", "critic"])
    until = time.monotonic() + 10
    while jobs.busy and time.monotonic() < until:
        failure = jobs.keep(["judge", "critic"])
        time.sleep(0.01)
    return failure


def says(run: RunDirectory, job: str, *, lasts_s: float = 30.0, failed: str = "") -> None:
    write_json(run.service_job("judge"), asdict(Lease(job=job, host="n", until=time.time() + lasts_s, failed=failed)))


def test_services_of_one_group_share_one_job(run: RunDirectory, queued: list[int]) -> None:
    jobs = ServiceJobs(run, PLAN, Ledger(run.ledger, 1))
    assert jobs.phases == {"judge": Phase.WAITING, "critic": Phase.WAITING}
    kept(jobs)
    kept(jobs)
    assert queued == [1]
    assert [event.fields["job_id"] for event in read(run.ledger)] == ["101"]
    assert jobs.phases == {"judge": Phase.RUNNING, "critic": Phase.RUNNING}


def test_a_job_whose_lease_has_run_out_is_queued_again_and_one_that_serves_is_not(
    run: RunDirectory, queued: list[int]
) -> None:
    jobs = ServiceJobs(run, PLAN, Ledger(run.ledger, 1))
    kept(jobs)
    says(run, "101")
    kept(jobs)
    assert queued == [1]
    says(run, "101", lasts_s=-1)
    kept(jobs)
    assert queued == [1, 1]


def test_a_service_that_has_given_up_is_told_and_not_queued_again(run: RunDirectory, queued: list[int]) -> None:
    jobs = ServiceJobs(run, PLAN, Ledger(run.ledger, 1))
    kept(jobs)
    says(run, "101", lasts_s=-1, failed="Role judge failed and its 3 restart(s) are used up.")
    assert "restart(s) are used up" in kept(jobs)
    assert queued == [1]


def test_a_job_is_let_go_when_none_of_its_services_is_needed(run: RunDirectory, queued: list[int]) -> None:
    jobs = ServiceJobs(run, PLAN, Ledger(run.ledger, 1))
    kept(jobs)
    says(run, "101")
    asked = run.control / "stop-judge"
    jobs.stop(["judge"])
    assert not asked.exists()
    jobs.stop(["critic"])
    assert asked.exists()
    assert queued == [1]
