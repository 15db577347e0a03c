from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.allocation import fence
from orchestrator.files import write_json
from orchestrator.ledger import Ledger
from orchestrator.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    found = RunDirectory(tmp_path / "run")
    found.create()
    return found


def test_a_successor_of_a_run_that_has_failed_has_nothing_to_do(run: RunDirectory) -> None:
    write_json(run.run, {"executor": "slurm", "job_id": "1"})
    Ledger(run.ledger, 1).append("attempt_started", job_id="1")
    assert fence.over(run, "2") == ""
    Ledger(run.ledger, 1).append("run_finished", state="FAILED", kind="crash")
    assert fence.over(run, "2") == "FAILED"


def test_a_resumed_run_keeps_its_chain_though_an_earlier_attempt_has_failed(run: RunDirectory) -> None:
    Ledger(run.ledger, 1).append("attempt_started", job_id="1")
    Ledger(run.ledger, 1).append("run_finished", state="FAILED", kind="crash")
    write_json(run.run, {"executor": "slurm", "job_id": "2"})
    assert fence.over(run, "2") == ""
    # Job 2 begins and is killed without a word; job 3 is its successor.
    Ledger(run.ledger, 2).append("attempt_started", job_id="2")
    Ledger(run.ledger, 2).append("successor_queued", job_id="3", after="2")
    assert fence.over(run, "3") == ""
