from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.allocation import srun, step
from orchestrator.allocation.srun import Step
from orchestrator.files import write_json
from orchestrator.plan import Role
from orchestrator.run_directory import RunDirectory

TRAIN = Role(name="train", job="grpo", kind="batch", nodes=2, cpus_per_node=4, drain_s=20)


def ended_step(run: RunDirectory, code: int, *records: dict[str, object] | None) -> Step:
    """Return a step whose srun has ended with a code, and whose tasks left these records."""
    run.create()
    run.steps.mkdir(exist_ok=True)
    for rank, said in enumerate(records):
        if said is not None:
            record = step.Record(
                role="train", replica=0, rank=rank, generation=1, start=0, host=f"n{rank}", pid=1, began=0.0, step="1.0"
            )
            write_json(step.path_of(run, "train", 0, rank), vars(record) | said)
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    process.wait()
    return Step(
        guard=process, pid=process.pid, start=0.0, where=("n0", "n1"), run=run, role="train", replica=0, generation=1,
        number=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "first", "second", "expected"),
    [
        (0, {"exit_code": 0}, {"exit_code": 0}, 0),
        (75, {"exit_code": 75}, {"exit_code": 75}, 75),
        # The second node failed, and srun ended the first: the failure is the second's.
        (143, {"exit_code": -15, "signal": "SIGTERM"}, {"exit_code": 2}, 2),
        (137, {"exit_code": -9}, {"exit_code": 75, "signal": "SIGTERM"}, -9),
        # The first node vanished while the second one drained in good order.
        (0, {"exit_code": None}, {"exit_code": 75}, -9),
        (0, None, {"exit_code": 75}, -9),
        (1, None, None, 1),
        (130, None, None, -2),
    ],
)
def test_a_step_ends_as_its_first_task_unless_another_one_failed(
    tmp_path: Path, code: int, first: dict[str, object] | None, second: dict[str, object] | None, expected: int
) -> None:
    assert ended_step(RunDirectory(tmp_path), code, first, second).exit_code() == expected


def test_only_a_signal_that_no_failure_explains_is_slurms(tmp_path: Path) -> None:
    told = {"exit_code": 75, "signal": "SIGTERM"}
    assert ended_step(RunDirectory(tmp_path / "a"), 75, told, told).signalled() is not None
    assert ended_step(RunDirectory(tmp_path / "b"), 143, {"exit_code": 1}, told).signalled() is None
    assert ended_step(RunDirectory(tmp_path / "c"), 0, {"exit_code": 0}, {"exit_code": 0}).signalled() is None


def test_nodes_without_a_last_word_are_lost(tmp_path: Path) -> None:
    assert ended_step(RunDirectory(tmp_path), 1, {"exit_code": 75}, None).lost() == ("n1",)


def test_srun_is_told_to_pass_signals_on_and_to_wait_no_longer_than_a_drain() -> None:
    argv = srun.command(TRAIN, ("n1", "n2"), component=1, options=["--x"], prefix=["wrap"], task=["task"], argv=["job"])
    assert argv[0] == "srun"
    assert {"--het-group=1", "--nodes=2", "--ntasks=2", "--nodelist=n1,n2", "--cpus-per-task=4"} < set(argv)
    assert "--gres=none" in argv
    assert {"--overlap", "--kill-on-bad-exit=1", "--wait=50", "--export=ALL", "--x"} < set(argv)
    assert argv[-4:] == ["task", "--", "wrap", "job"]
    assert not [word for word in srun.command(TRAIN, ("n1",), component=None, options=[], prefix=[], task=[], argv=[])
                if word.startswith("--het-group")]  # fmt: skip


def test_a_step_is_asked_by_a_signal_that_srun_passes_on(tmp_path: Path) -> None:
    code = "import signal, sys, time; signal.signal(12, lambda *_: sys.exit(75)); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = Step(
            guard=process, pid=1, start=0.0, where=("n0",), run=RunDirectory(tmp_path), role="train", replica=0,
            generation=1, number=0,
        )  # fmt: skip
        found.ask_to_stop()
        assert process.wait(10) == 75
    assert signal.SIGUSR2 == 12
