from __future__ import annotations

import pytest

from orchestrator.allocation import lost_attempts
from orchestrator.executors.slurm_commands import Job


@pytest.mark.parametrize(
    ("job", "ends_in_s", "kind"),
    [
        (Job(id="1", state="RUNNING", preempt_at=5.0), 9000, "preempted"),
        (Job(id="1", state="COMPLETING", preempt_at=5.0), 9000, "preempted"),
        # What Slurm 22.05 says after a scancel, after the loss of a node and at the time limit.
        (Job(id="1", state="COMPLETING"), 9000, "cancelled"),
        (Job(id="1", state="NODE_FAIL", reason="NodeDown"), 9000, "node_failure"),
        (Job(id="1", state="COMPLETING", reason="NodeDown"), 9000, "node_failure"),
        (Job(id="1", state="COMPLETING", reason="TimeLimit"), 9000, "time_limit"),
        (Job(id="1", state="CANCELLED"), 9000, "cancelled"),
        (Job(id="1", state="RUNNING"), 100, "time_limit"),
        (Job(id="1", state="RUNNING"), 9000, "drained"),
        (None, 9000, "preempted"),
        (None, 20, "time_limit"),
    ],
)
def test_why_slurm_asked_a_job_to_stop(job: Job | None, ends_in_s: float, kind: str) -> None:
    found, why = lost_attempts.kind_of_end(job, ends_in_s=ends_in_s)
    assert found == kind
    assert why
