"""Faults of a cluster, one by one, on a real Slurm of several nodes: what happens to a run, and that nothing is lost.

The jobs are stand-ins that commit numbered steps and answer like a judge, so that a fault costs a test seconds;
everything between them and Slurm is real. ``tests/test_slurm_run.py`` does it with the real jobs.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.sandbox import Options, Sandbox
from tests.fault_table import FaultTable
from tests.slurm_runs import Cluster, Run, recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("faults")
    with Sandbox(folder / "slurm", Options(grace_s=4, slurmd_timeout_s=6)) as sandbox:
        yield Cluster(sandbox, folder)


@pytest.fixture(scope="module")
def table() -> Iterator[FaultTable]:
    found = FaultTable()
    yield found
    found.write()


def undisturbed_end(run: Run, total: int) -> None:
    run.wait_end()
    run.assert_every_step_once(total)
    run.assert_nothing_left()


def test_preempted_again_and_again_no_step_is_lost(cluster: Cluster, table: FaultTable) -> None:
    run = cluster.submit(recipe(steps=40))
    took = []
    for attempt in (1, 2):
        run.wait_step(attempt * 6)
        at = time.time()
        urgent = cluster.sandbox.preempt([run.leader], 4)
        took.append(run.first_step_of(attempt + 1) - at)
        cluster.sandbox.run(["scancel", urgent], timeout_s=20)
    undisturbed_end(run, 40)
    assert run.kinds() == {"preempted": 2, "done": 1}
    table.add("preemption by a job of higher priority, twice", "drained, next job took over", max(took), 0)


@pytest.mark.parametrize(
    ("how", "placement"),
    [("batch", "hetjob"), ("steps", "slice"), ("both, twice", "slice"), ("both, twice", "hetjob")],
)
def test_signals_to_the_batch_script_or_to_the_steps_make_one_drain(cluster: Cluster, how: str, placement: str) -> None:
    run = cluster.submit(recipe(steps=25, placement=placement, judge={"slurm": {"partition": "train"}}))
    run.wait_step(4)
    kill = ["scancel", "--signal=TERM"]
    for _ in range(2 if how == "both, twice" else 1):
        if how != "steps":
            cluster.sandbox.run(["scancel", "--signal=USR2", "--batch", run.job_now], timeout_s=20)
        if how != "batch":
            cluster.sandbox.run([*kill, run.job_now], timeout_s=20)
    undisturbed_end(run, 25)
    assert [event.fields["state"] for event in run.events("run_finished")] == ["DRAINED", "SUCCEEDED"]
    assert len([event for event in run.events("drain_requested") if event.generation == 1]) == 1


def test_without_any_grace_only_the_step_under_way_is_repeated(cluster: Cluster, table: FaultTable) -> None:
    update = ["scontrol", "update", "PartitionName=train", "GraceTime=0"]
    cluster.sandbox.run(update, timeout_s=20)
    cluster.sandbox.run(["scontrol", "update", "PartitionName=judge", "GraceTime=0"], timeout_s=20)
    try:
        run = cluster.submit(recipe(steps=25))
        run.wait_step(5)
        at = time.time()
        urgent = cluster.sandbox.preempt([run.leader], 3)
        run.wait_attempt(2)
        undisturbed_end(run, 25)
        cluster.sandbox.run(["scancel", urgent], timeout_s=20)
    finally:
        cluster.sandbox.run([*update[:-1], "GraceTime=4"], timeout_s=20)
        cluster.sandbox.run(["scontrol", "update", "PartitionName=judge", "GraceTime=4"], timeout_s=20)
    first = run.first_step_of(2)
    table.add("preemption without grace", "next job took over", first - at, 0)


@pytest.mark.parametrize("who", ["trainer", "trainer's second node", "judge", "gateway", "supervisor"])
def test_kill_9(cluster: Cluster, table: FaultTable, who: str) -> None:
    run = cluster.submit(recipe(steps=40))
    run.wait_step(5)
    at = time.time()
    os.kill(pid_of(run, who), signal.SIGKILL)
    undisturbed_end(run, 40)
    attempts = len(run.events("attempt_started"))
    assert attempts == (2 if who == "supervisor" else 1), run.story()
    gap = longest_gap(run, at)
    restarted = [event.fields["role"] for event in run.events("role_restarting")]
    expected = {"trainer": ["train"], "trainer's second node": ["train"], "judge": ["judge"]}
    assert restarted == expected.get(who, []), run.story()
    table.add(f"kill -9 of the {who}", "next job took over" if attempts == 2 else "started again in place", gap, 0)


def pid_of(run: Run, who: str) -> int:
    if who == "supervisor":
        return int(run.events("attempt_started")[-1].fields["pid"])
    if who == "gateway":
        return int(
            next(event.fields["pid"] for event in run.events("role_started") if event.fields["role"] == "gateway")
        )
    role, rank = {"trainer": ("train", 0), "trainer's second node": ("train", 1), "judge": ("judge", 0)}[who]
    return run.record(role, rank).pid


def longest_gap(run: Run, since: float) -> float:
    """Return the longest time between two steps from the last one before ``since`` on, seconds."""
    times = [line["at"] for line in run.steps]
    first = max((i for i, at in enumerate(times) if at <= since), default=0)
    return max(later - earlier for earlier, later in zip(times[first:], times[first + 1 :], strict=False))


@pytest.mark.parametrize("role", ["train", "judge"])
def test_a_role_that_hangs_is_started_again(cluster: Cluster, table: FaultTable, role: str) -> None:
    # The judge's lease is what tells of it; it runs out after 30 s, and is waited for as long again.
    run = cluster.submit(recipe(steps=30, train={"hung_after_s": 3 if role == "train" else 1800, "drain_s": 1}))
    run.wait_step(5)
    at = time.time()
    os.kill(run.record(role).pid, signal.SIGSTOP)
    run.wait_end(timeout_s=150)
    run.assert_every_step_once(30)
    assert [event.fields["role"] for event in run.events("role_restarting")] == [role]
    table.add(f"the {role} hangs (SIGSTOP)", "noticed by its silence, started again", longest_gap(run, at), 0)


@pytest.mark.parametrize(
    ("whose", "how"),
    [
        *((whose, how) for whose in ("leader", "judge", "worker") for how in ("state=down", "cable cut")),
        ("leader", "power failure"),
    ],
)
def test_the_loss_of_a_node_moves_the_run(cluster: Cluster, table: FaultTable, whose: str, how: str) -> None:
    # Slurm takes up to half a minute to give up a node that does not answer.
    run = cluster.submit(recipe(steps=1000))
    run.wait_step(6)
    name = {"leader": run.leader, "judge": run.nodes_of("judge")[0], "worker": run.nodes_of("train")[1]}[whose]
    node = cluster.sandbox.node(name)
    at = time.time()
    try:
        {"state=down": node.down, "power failure": node.kill, "cable cut": node.cut}[how]()
        first = run.first_step_of(2)
        run.stop_and_check()
        assert name not in run.events("attempt_started")[-1].fields["nodes"]
    finally:
        {"state=down": node.resume, "power failure": node.boot, "cable cut": node.heal}[how]()
        cluster.sandbox.run(["scontrol", "update", f"NodeName={name}", "State=resume"], timeout_s=20)
    table.add(f"{whose}'s node lost: {how}", "next job on other nodes", first - at, 0)


def test_the_controller_may_be_down_while_a_run_goes_on_and_ends(cluster: Cluster, table: FaultTable) -> None:
    run = cluster.submit(recipe(steps=1000, judge={"on_failure": {"restart": 1, "backoff_s": 0.1}}))
    run.wait_step(5)
    cluster.sandbox.controller.stop()
    try:
        run.wait_step(len(run.steps) + 20)
        quiet = longest_gap(run, 0)
        # No step can be started without a controller; that must not use up the judge's restarts.
        os.kill(run.record("judge").pid, signal.SIGKILL)
        run.wait_until(lambda: len(run.events("role_not_started")) > 1, "two vain starts")
    finally:
        cluster.sandbox.controller.start()
    run.wait_step(len(run.steps) + 20)
    run.stop_and_check()
    assert len(run.events("attempt_started")) == 1
    table.add("slurmctld down", "the run goes on", quiet, 0)
    table.add("slurmctld down, and the judge killed", "judge starts when it is back", longest_gap(run, 0), 0)


def test_a_job_that_ends_while_the_controller_is_down_is_followed_by_the_next(
    cluster: Cluster, table: FaultTable
) -> None:
    run = cluster.submit(recipe(steps=1000))
    run.wait_step(5)
    cluster.sandbox.controller.stop()
    at = time.time()
    try:
        os.kill(pid_of(run, "supervisor"), signal.SIGUSR2)
        time.sleep(40)
    finally:
        cluster.sandbox.controller.start()
    first = run.first_step_of(2)
    run.stop_and_check()
    table.add("slurmctld down for 40 s while the run drains", "waits for it, next job took over", first - at, 0)


def test_a_submission_without_a_controller_leaves_nothing_behind(cluster: Cluster) -> None:
    cluster.sandbox.controller.stop()
    try:
        file = cluster.folder / "alone.yaml"
        import yaml

        file.write_text(yaml.safe_dump(recipe(steps=3) | {"name": "alone"}))
        refused = cluster.verb("submit", str(file), "--cluster", "sandbox")
        assert refused.returncode == 75, refused.stderr
    finally:
        cluster.sandbox.controller.start()
    again = cluster.verb("submit", str(file), "--cluster", "sandbox")
    assert again.returncode == 0, again.stderr
    from orchestrator.run_directory import RunDirectory

    run = Run(cluster, RunDirectory(cluster.folder / "runs" / "alone"), "")
    undisturbed_end(run, 3)


def test_the_time_limit_hands_over_before_slurm_ends_the_job(cluster: Cluster, table: FaultTable) -> None:
    run = cluster.submit(recipe(steps=250, time_limit="40s"))
    run.wait_attempt(2)
    at = run.events("drain_requested")[0].at
    first = run.first_step_of(2)
    assert run.kinds()["time_limit"] == 1, run.story()
    run.stop_and_check()
    table.add("time limit", "drained before it, next job took over", first - at, 0)


def test_a_role_that_always_crashes_stops_the_run_and_not_the_cluster(cluster: Cluster, table: FaultTable) -> None:
    # Two starts in each of three jobs; the seventh start, after somebody has mended it, goes well.
    train = {"with": {"crash_at": 1, "times": 6}, "on_failure": {"restart": 1, "backoff_s": 0.1}}
    run = cluster.submit(recipe(steps=5, train=train))
    end = run.wait_end("CRASH_LOOP")
    run.assert_nothing_left()
    assert len(run.events("attempt_started")) == 3
    assert "told to crash" in end.fields["diagnosis"]
    assert cluster.verb("status", run.directory.name).stdout.count("CRASH_LOOP") == 1
    table.add("trainer that crashes at once, always", "stopped after 3 jobs without a step", None, None)
    assert cluster.verb("resume", run.directory.name).returncode == 0
    run.wait_until(lambda: run.events("run_finished")[-1].fields["state"] == "SUCCEEDED", "success")
    run.assert_every_step_once(5)


def test_a_bad_node_is_left_out_of_the_next_job(cluster: Cluster, table: FaultTable) -> None:
    run = cluster.submit(
        recipe(steps=12, train={"with": {"bad_node": "n1"}, "on_failure": {"restart": 1, "backoff_s": 0.1}})
    )
    undisturbed_end(run, 12)
    assert [event.fields["nodes"] for event in run.events("nodes_excluded")] == [["n1"]]
    assert run.leader != "n1"
    table.add("node on which the trainer always crashes", "excluded from the next job", None, 0)


def test_a_finished_run_that_is_started_again_is_left_alone(cluster: Cluster) -> None:
    run = cluster.submit(recipe(steps=3))
    undisturbed_end(run, 3)
    before = run.directory.ledger.read_bytes()
    script = str(run.directory.path / "submit.sbatch")
    job = cluster.sandbox.run(["sbatch", "--parsable", "--output=/dev/null", script], timeout_s=20).stdout.strip()
    cluster.sandbox.wait(job, ["COMPLETED"], 10)
    assert run.directory.ledger.read_bytes() == before


def test_a_script_submitted_by_hand_makes_its_run(cluster: Cluster, tmp_path: Path) -> None:
    import yaml

    file = tmp_path / "hand.yaml"
    file.write_text(yaml.safe_dump(recipe(steps=4) | {"name": "hand"}))
    rendered = cluster.verb("render", str(file), "--cluster", "sandbox")
    assert rendered.returncode == 0, rendered.stderr
    script = tmp_path / "hand.sbatch"
    script.write_text(rendered.stdout)
    done = cluster.sandbox.run(["sbatch", "--parsable", "--wait", str(script)], timeout_s=90)
    assert done.returncode == 0, done.stderr
    from orchestrator.run_directory import RunDirectory

    run = Run(cluster, RunDirectory(cluster.folder / "runs" / "hand"), "")
    undisturbed_end(run, 4)


def test_scancel_of_the_job_ends_the_run(cluster: Cluster) -> None:
    run = cluster.submit(recipe(steps=200))
    run.wait_step(3)
    cluster.sandbox.run(["scancel", run.job_now], timeout_s=20)
    run.wait_end("CANCELLED")
    run.assert_nothing_left()


def test_a_pair_keeps_its_judge_through_a_preemption_of_the_trainer(cluster: Cluster, table: FaultTable) -> None:
    run = cluster.submit(recipe(steps=40, placement="pair"))
    run.wait_step(5)
    at = time.time()
    urgent = cluster.sandbox.preempt([run.leader], 3)
    first = run.first_step_of(2)
    undisturbed_end(run, 40)
    cluster.sandbox.run(["scancel", urgent], timeout_s=20)
    assert len(run.events("service_job_queued")) == 1, run.story()
    assert [event.fields["role"] for event in run.events("service_ready")] == ["judge"]
    table.add("pair: the trainer is preempted", "the judge serves on; next trainer job", first - at, 0)


def test_a_pair_goes_on_training_when_the_judges_node_is_lost(cluster: Cluster, table: FaultTable) -> None:
    run = cluster.submit(recipe(steps=40, placement="pair"))
    run.wait_step(5)
    node = cluster.sandbox.node(run.nodes_of("judge")[0])
    at = time.time()
    try:
        node.down()
        undisturbed_end(run, 40)
    finally:
        node.resume()
    assert len(run.events("attempt_started")) == 1, run.story()
    assert len(run.events("service_job_queued")) == 2
    table.add("pair: the judge's node is lost", "next judge job; training waits for it", longest_gap(run, at), 0)


def test_a_secret_of_the_shell_reaches_the_roles_and_nobody_else(cluster: Cluster) -> None:
    canary = "canary-5d41402abc4b2a76b9719d911017c592"
    said = {"argv": ["bash", "-c", f"test ${{#HF_TOKEN}} = {len(canary)} && sleep 3"]}
    what = {"name": "r", "roles": {"work": {"job": "command", "with": said}}, "time_limit": "10m"}
    cluster.environment["HF_TOKEN"] = canary
    try:
        run = cluster.submit(what)
    finally:
        del cluster.environment["HF_TOKEN"]
    run.wait_until(lambda: run.events("role_started"), "the role")
    shown = cluster.sandbox.run(["scontrol", "show", "job", "--details", run.job_now], timeout_s=20).stdout
    script = cluster.sandbox.run(["scontrol", "write", "batch_script", run.job_now, "-"], timeout_s=20).stdout
    assert "#SBATCH" in script
    argv = command_lines()
    run.wait_end()
    files = [path for path in run.directory.path.rglob("*") if path.is_file()]
    holding = [path for path in files if canary.encode() in path.read_bytes()]
    assert [path.name for path in holding] == ["environment.json"]
    assert holding[0].stat().st_mode & 0o077 == 0
    spool = [path for path in (cluster.folder / "slurm").rglob("*") if path.is_file()]
    assert not [path for path in spool if canary.encode() in path.read_bytes()]
    assert canary not in shown + script
    assert not [line for line in argv if canary.encode() in line]


def test_a_role_sees_the_gpus_that_it_asked_for(cluster: Cluster) -> None:
    def shown(gpus: int, after: list[str]) -> dict[str, object]:
        says = {"argv": ["bash", "-c", "echo gpus=${CUDA_VISIBLE_DEVICES:-none}"]}
        return {"job": "command", "gpus_per_node": gpus, "after": after, "with": says}

    roles = {"eight": shown(8, []), "two": shown(2, ["eight"]), "zero": shown(0, ["two"])}
    run = cluster.submit({"name": "r", "roles": roles, "time_limit": "10m"})
    run.wait_end()
    logs = {role: (run.directory.attempt(1) / f"{role}.log").read_text() for role in roles}
    assert "gpus=0,1,2,3,4,5,6,7\n" in logs["eight"]
    assert "gpus=0,1\n" in logs["two"]
    assert "gpus=none\n" in logs["zero"]


def command_lines() -> list[bytes]:
    """Return the command lines of all processes of the machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            continue  # It has ended meanwhile.
    return found
