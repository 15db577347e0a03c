from __future__ import annotations

import time

import pytest

from orchestrator import waiting
from orchestrator.executors.slurm_commands import Job

NOON = time.mktime((*time.localtime()[:3], 12, 0, 0, 0, 0, -1))


def pending(reason: str, **known: object) -> Job:
    return Job(id="12", state="PENDING", reason=reason, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("job", "says"),
    [
        pytest.param(pending(""), "Job 12 waits for the scheduler's next look at the queue (None).", id="new"),
        pytest.param(
            pending("Priority", submit_at=NOON),
            "Job 12 waits since 12:00:00 because other jobs go first (Priority).",
            id="priority",
        ),
        pytest.param(
            pending("BeginTime", restarts=1, start_at=NOON),
            "Job 12 waits for its begin time: Slurm holds it back after a requeue until 12:00:00 (BeginTime).",
            id="requeue delay",
        ),
        pytest.param(
            pending("Dependency", dependency="afternotok:11(unfulfilled)"),
            "Job 12 waits for the end of an earlier job: afternotok:11(unfulfilled) (Dependency).",
            id="dependency",
        ),
        pytest.param(
            pending("JobHeldUser"),
            "Job 12 waits because it is held; let it go with: scontrol release 12 (JobHeldUser).",
            id="held",
        ),
        pytest.param(
            pending("InvalidQOS"),
            "Job 12 waits because its QOS is not valid; set slurm.qos in the profile, then `cancel` and `submit` "
            "(InvalidQOS).",
            id="bad QOS",
        ),
        pytest.param(
            pending("AssocGrpGRES"),
            "Job 12 waits because your account has used up what it may have at a time; it starts when others of it "
            "end (AssocGrpGRES).",
            id="limit of the account",
        ),
        pytest.param(
            pending("SomethingNew"),
            "Job 12 waits for a reason that Slurm calls SomethingNew. See: scontrol show job 12",
            id="unknown",
        ),
        pytest.param(
            Job(id="12", state="RUNNING", node_list="n1"),
            "Job 12 has started on n1; its supervisor has not reported yet.",
            id="started",
        ),
    ],
)
def test_what_a_job_waits_for_is_a_sentence(job: Job, says: str) -> None:
    assert waiting.sentence(job) == says


def test_the_start_that_slurm_expects_is_told() -> None:
    says = waiting.sentence(pending("Resources", start_at=time.time() + 3600))

    assert says.startswith("Job 12 waits for free nodes (Resources). Slurm expects it to start at ")
