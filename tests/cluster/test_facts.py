"""What the product takes for granted of Slurm, tried on a real one. Sites may have newer ones; 22.05 is the oldest."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.sandbox import Sandbox
from orchestrator import processes
from tests.cluster.jobs import ENDED, output, script, submit

pytestmark = pytest.mark.slow

# A task that says which signals it hears, itself and what it started: in its process group, and in another session.
LISTENER = """
trap 'echo "$SLURM_NODEID task usr2" >> {0}/heard; exit 75' USR2
sh -c 'trap "echo child usr2 >> {0}/heard" USR2; while :; do sleep 0.05; done' &
setsid sh -c 'trap "echo session usr2 >> {0}/heard" USR2; while :; do sleep 0.05; done' &
: > {0}/ready-$SLURM_PROCID
while :; do sleep 0.05; done
"""
QUEUE_SUCCESSOR = """
sbatch --parsable --no-requeue --export=ALL --dependency=afternotok:$SLURM_JOB_ID {1} > {0}/new; mv {0}/new {0}/id
"""
SUCCESSOR = "date +%s.%N > {0}/started.new; mv {0}/started.new {0}/started\n"


def test_usr2_sent_to_srun_reaches_the_tasks_of_all_nodes_and_nothing_they_started(
    sandbox: Sandbox, folder: Path
) -> None:
    task = script(folder, LISTENER.format(folder))
    body = f"""
srun --overlap -N3 -n3 {task} & step=$!
until [ -e {folder}/ready-0 ] && [ -e {folder}/ready-1 ] && [ -e {folder}/ready-2 ]; do sleep 0.05; done
sleep 0.2; kill -USR2 $step; wait $step; echo code $?
"""
    job = submit(sandbox, folder, body, ["-N3"])

    sandbox.wait(job, ENDED, 20)

    assert sandbox.record.proctrack == "cgroup"
    assert sorted((folder / "heard").read_text().splitlines()) == ["0 task usr2", "1 task usr2", "2 task usr2"]
    assert "code 75" in output(folder, job)


def test_the_step_ends_everything_its_tasks_started_when_they_end(sandbox: Sandbox, folder: Path) -> None:
    task = script(folder, f"setsid sleep 1234.5 & echo $! > {folder}/orphan; exit 0")
    job = submit(sandbox, folder, f"srun {task}\n", ["-N1"])

    sandbox.wait(job, ENDED, 20)

    # A little later: what init has yet to reap has ended as well.
    orphan = int((folder / "orphan").read_text())
    until = time.monotonic() + 10
    while (left := processes.find(orphan)) and not left.ended:
        assert time.monotonic() < until, left
        time.sleep(0.05)


def test_kill_on_bad_exit_ends_the_other_tasks_at_once(sandbox: Sandbox, folder: Path) -> None:
    task = script(folder, '[ "$SLURM_PROCID" = 1 ] && exit 3; exec sleep 60\n')
    body = f"date +%s; srun -N3 -n3 --kill-on-bad-exit=1 {task}; echo code $?; date +%s\n"
    job = submit(sandbox, folder, body, ["-N3"])

    sandbox.wait(job, ENDED, 30)

    lines = output(folder, job).splitlines()
    assert int(lines[-1]) - int(lines[0]) < 10
    # SIGTERM of those that were ended, not the 3 of the one that failed: srun reports the largest.
    assert "code 143" in lines


def test_export_nil_reads_the_login_shell_and_leaves_steps_without_environment(
    sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So sbatch gets a clean environment of ours with --export=ALL instead."""
    monkeypatch.setenv("CANARY", "sung")
    body = "env; echo in the step; srun --export=ALL env; echo without; srun sh -c true\n"
    job = submit(sandbox, folder, body, ["--export=NIL", "-N1"])

    sandbox.wait(job, ENDED, 30)

    said = output(folder, job)
    assert "CANARY" not in said
    assert "SLURM_GET_USER_ENV=1" in said
    assert "SLURM_EXPORT_ENV=NIL" in said
    assert "PATH=" in said.partition("in the step")[2].partition("without")[0]
    assert "execve(): sh: No such file or directory" in said.partition("without")[2]


def test_a_clean_environment_with_export_all_is_all_the_job_sees(sandbox: Sandbox, folder: Path) -> None:
    path = script(folder, "env\n")
    clean = ["env", "-i", "PATH=/usr/bin:/bin", f"SLURM_CONF={sandbox.slurm_conf}", "MINE=1"]
    command = [*clean, "sbatch", "--parsable", "--export=ALL", f"--output={folder}/%j.out", path]
    job = sandbox.run(command, check=True).stdout.strip()

    sandbox.wait(job, ENDED, 30)

    names = {line.partition("=")[0] for line in output(folder, job).splitlines()}
    assert {name for name in names if not name.startswith("SLURM")} == {
        "ENVIRONMENT", "HOSTNAME", "MINE", "PATH", "PWD", "TMPDIR",
    }  # fmt: skip


def test_the_end_time_is_not_in_the_environment(sandbox: Sandbox, folder: Path) -> None:
    """It is from 23.02 on; before, `scontrol show job` has to be asked."""
    job = submit(sandbox, folder, "env; srun env\n", ["-N1", "--time=10"])

    sandbox.wait(job, ENDED, 20)

    assert "SLURM_JOB_ID=" in output(folder, job)
    assert "SLURM_JOB_END_TIME" not in output(folder, job)


def test_a_successor_starts_after_exit_75(sandbox: Sandbox, folder: Path) -> None:
    successor = script(folder, SUCCESSOR.format(folder))
    body = QUEUE_SUCCESSOR.format(folder, successor) + f"sleep 1; date +%s.%N > {folder}/ended; exit 75\n"

    job = submit(sandbox, folder, body, ["-N2"])

    sandbox.wait(job, ["FAILED"], 20)
    assert _delay(folder, "ended") < 5


def test_a_successor_is_cancelled_by_nobody_but_us_after_exit_0(sandbox: Sandbox, folder: Path) -> None:
    successor = script(folder, SUCCESSOR.format(folder))
    job = submit(sandbox, folder, QUEUE_SUCCESSOR.format(folder, successor), ["-N1"])

    sandbox.wait(job, ["COMPLETED"], 20)

    waiting = (folder / "id").read_text().strip()
    assert sandbox.wait(waiting, ["PENDING"], 5) == "PENDING"
    time.sleep(2)
    assert "DependencyNeverSatisfied" in sandbox.run(["scontrol", "show", "job", waiting]).stdout
    sandbox.run(["scancel", waiting], check=True)


def test_a_successor_starts_after_preemption(sandbox: Sandbox, folder: Path) -> None:
    successor = script(folder, SUCCESSOR.format(folder))
    body = QUEUE_SUCCESSOR.format(folder, successor) + "exec sleep 300\n"
    job = submit(sandbox, folder, body, ["-N1", "--nodelist=n1"])
    _until(folder / "id")

    preemptor = sandbox.preempt(["n1"], 30)

    state = sandbox.wait(job, ENDED, 30)
    (folder / "ended").write_text(str(time.time()), encoding="ascii")
    assert state == "PREEMPTED"
    assert _delay(folder, "ended") < 5
    sandbox.run(["scancel", preemptor], check=True)


def test_a_successor_starts_after_node_failure(sandbox: Sandbox, folder: Path) -> None:
    successor = script(folder, SUCCESSOR.format(folder))
    body = QUEUE_SUCCESSOR.format(folder, successor) + "exec sleep 300\n"
    job = submit(sandbox, folder, body, ["-N1", "--nodelist=n2"])
    _until(folder / "id")

    (folder / "ended").write_text(str(time.time()), encoding="ascii")
    sandbox.node("n2").down()

    assert sandbox.wait(job, ENDED, 20) == "NODE_FAIL"
    assert _delay(folder, "ended") < 5
    sandbox.node("n2").resume()


def test_a_heterogeneous_successor_starts_after_the_leader_failed(sandbox: Sandbox, folder: Path) -> None:
    two = ["--partition=train", "-N2", ":", "--partition=judge", "-N1"]
    successor = script(folder, SUCCESSOR.format(folder) + "srun --het-group=0,1 hostname\n")
    queue = QUEUE_SUCCESSOR.format(folder, f"--output={folder}/next.out {' '.join(two)} {successor}")
    body = queue + f"sleep 1; date +%s.%N > {folder}/ended; exit 75\n"

    job = submit(sandbox, folder, body, two)

    sandbox.wait(job, ["FAILED"], 20)
    assert _delay(folder, "ended") < 8
    sandbox.wait((folder / "id").read_text().strip(), ["COMPLETED"], 20)
    assert len((folder / "next.out").read_text().splitlines()) == 3


def test_with_no_requeue_any_lost_node_ends_all_components_of_a_heterogeneous_job(
    sandbox: Sandbox, folder: Path
) -> None:
    two = ["--partition=train", "-N1", "--nodelist=n1", ":", "--partition=judge", "-N1", "--nodelist=n6"]
    job = submit(sandbox, folder, f": > {folder}/id; exec sleep 300\n", two)
    _until(folder / "id")

    sandbox.node("n6").down()

    assert sandbox.wait(job, ENDED, 20) == "NODE_FAIL"
    shown = sandbox.run(["scontrol", "show", "job", job]).stdout
    assert shown.count("JobState=NODE_FAIL") == 2
    sandbox.node("n6").resume()


def _until(path: Path, timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < until, f"{path} was not written within {timeout_s} s"
        time.sleep(0.05)


def _delay(folder: Path, ended: str) -> float:
    """Return the seconds between the end of a job and the start of its successor."""
    _until(folder / "started", 30)
    delay = float((folder / "started").read_text()) - float((folder / ended).read_text())
    print(f"successor started after {delay:.2f} s")
    return delay
