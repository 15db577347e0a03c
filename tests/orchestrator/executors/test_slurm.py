"""The Slurm executor in a real Slurm: one job a run, whatever dies while it is submitted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster.sandbox import Options, Sandbox
from orchestrator import control, ledger
from orchestrator.files import read_json
from tests.orchestrator.executors.login_node import CHECKOUT, LoginNode, events

pytestmark = pytest.mark.slow

KILL_THE_SUBMITTER = "kill -9 $PPID"


def test_a_run_is_one_job_whose_supervisor_is_submitits_callable(login: LoginNode) -> None:
    job = login.submit()

    assert login.ended() == "SUCCEEDED"
    run = login.run()
    record = read_json(run.run)
    assert (record["executor"], record["job_id"], record["attempt"]) == ("slurm", job, 1)
    folder = run.path / "submitit"
    login.wait_for((folder / f"{job}_0_result.pkl").exists, "submitit's result")
    from orchestrator.executors.slurm import Job

    assert Job(folder, job).result() == 0
    assert (folder / f"{job}_submission.sh").read_text() == (run.path / "submit.sbatch").read_text()


def test_the_next_attempt_waits_behind_every_attempt_and_is_cancelled_when_all_is_done(login: LoginNode) -> None:
    login.submit("sleep 2")

    assert login.ended() == "SUCCEEDED"
    login.wait_for(lambda: login.queue() == [], "an empty queue")
    assert events(login.run(), ["successor_queued", "successor_cancelled"]) == [
        "successor_queued",
        "successor_cancelled",
    ]


def test_the_environment_of_the_submitting_shell_reaches_the_role_and_not_slurm(login: LoginNode) -> None:
    login.variables |= {"CANARY_TOKEN": "s3cret-canary", "SLURM_CPUS_PER_TASK": "7", "ORCH_ROLE": "wrong"}
    out = login.folder / "seen"
    job = login.submit(f"env > {out}; sleep 3")
    login.wait_for(out.exists, "the role")
    shown = login.sandbox.run(["scontrol", "show", "job", job], check=True).stdout
    environ = login.sandbox.run(["sh", "-c", "cat /proc/[0-9]*/cmdline"]).stdout

    assert login.ended() == "SUCCEEDED"
    seen = dict(line.split("=", 1) for line in out.read_text().splitlines() if "=" in line)
    assert (seen["CANARY_TOKEN"], seen["ORCH_ROLE"]) == ("s3cret-canary", "one")
    assert seen.get("SLURM_CPUS_PER_TASK") != "7"
    assert "s3cret-canary" not in shown + environ.replace("CANARY_TOKEN=s3cret-canary", "")
    kept = login.run().secrets / "environment.json"
    assert kept.stat().st_mode & 0o077 == 0
    holders = [p for p in login.run().path.rglob("*") if p.is_file() and b"s3cret-canary" in p.read_bytes()]
    assert holders == [kept]


def test_of_twenty_submissions_at_once_one_becomes_a_job(login: LoginNode) -> None:
    login.hold_jobs()

    done = login.at_once(20, "submit", login.recipe())

    assert sorted(each.returncode for each in done) == [0] + [3] * 19
    assert len(login.queue()) == 1


def test_of_twenty_resumes_at_once_one_becomes_a_job(login: LoginNode) -> None:
    login.hold_jobs()
    login.submit()
    login.orchestrator("cancel", "a")
    login.wait_for(lambda: login.queue() == [], "an empty queue")

    done = login.at_once(20, "resume", "a")

    assert sorted(each.returncode for each in done) == [0] + [3] * 19
    assert len(login.queue()) == 1


def test_a_submitter_killed_before_sbatch_has_submitted_nothing(login: LoginNode) -> None:
    login.hold_jobs()
    killed = login.orchestrator("submit", login.recipe(), **login.around_sbatch(before=f"{KILL_THE_SUBMITTER}; exit 1"))
    assert killed.returncode in (-9, 137)
    assert "job_id" not in read_json(login.run().run)

    told = login.orchestrator("status", "a").stdout
    assert "interrupted before anything was queued" in told
    assert login.queue() == []

    resumed = login.orchestrator("resume", "a")
    assert resumed.returncode == 0, resumed.stderr
    assert len(login.queue()) == 1


@pytest.mark.parametrize("verb", ["status", "resume", "cancel", "submit"])
def test_a_job_whose_submitter_was_killed_before_it_was_recorded_is_found(login: LoginNode, verb: str) -> None:
    login.hold_jobs()
    recipe = login.recipe()
    killed = login.orchestrator("submit", recipe, **login.around_sbatch(after=KILL_THE_SUBMITTER))
    assert killed.returncode in (-9, 137)
    assert "job_id" not in read_json(login.run().run)
    (job,) = login.queue()

    done = login.orchestrator(verb, recipe if verb == "submit" else "a")

    assert done.returncode == (3 if verb in ("resume", "submit") else 0), done.stderr
    assert login.queue() == ([] if verb == "cancel" else [job])
    assert verb == "submit" or read_json(login.run().run)["job_id"] == job


def test_nobody_takes_over_while_the_sbatch_of_a_killed_submitter_is_at_work(login: LoginNode) -> None:
    login.hold_jobs()
    login.orchestrator("submit", login.recipe(), **login.around_sbatch(before=f"{KILL_THE_SUBMITTER}; sleep 2"))
    assert login.queue() == []

    again = login.orchestrator("resume", "a")

    assert again.returncode == 3
    (job,) = login.queue()
    assert f"job {job} (pending)" in again.stderr


def test_a_job_records_itself_if_its_submitter_has_died(login: LoginNode) -> None:
    login.orchestrator("submit", login.recipe(), **login.around_sbatch(after=KILL_THE_SUBMITTER))

    assert login.ended() == "SUCCEEDED"
    assert read_json(login.run().run)["job_id"] == ledger.read(login.run().ledger)[1].fields["job_id"]


def test_a_waiting_run_says_why_and_costs_one_request(login: LoginNode) -> None:
    login.hold_jobs()
    job = login.submit()
    login.wait_for(lambda: "PartitionDown" in login.sandbox.run(["squeue", "-ho%r"]).stdout, "Slurm's reason")
    before = login.sandbox.rpcs().of_clients

    now = login.status()

    assert login.sandbox.rpcs().of_clients - before == 1
    assert (now["state"], now["job"]) == ("SUBMITTED", job)
    assert "because its partition takes no jobs now" in now["doing"]


def test_a_running_run_is_looked_at_without_asking_slurm(login: LoginNode) -> None:
    login.submit("sleep 6")
    login.wait_for(lambda: control.state(login.run()).state == "RUNNING", "the supervisor")
    login.wait_for(lambda: events(login.run(), ["successor_queued"]), "the successor")
    before = login.sandbox.rpcs().of_clients

    for command in (["status", "a"], ["list"], ["logs", "a"]):
        assert login.orchestrator(*command).returncode == 0

    assert login.sandbox.rpcs().of_clients == before


def test_a_waiting_run_is_not_resumed_but_reported(login: LoginNode) -> None:
    login.hold_jobs()
    job = login.submit()

    again = login.orchestrator("resume", "a")

    assert (again.returncode, login.queue()) == (3, [job])
    assert f"job {job} (pending)" in again.stderr


def test_a_run_cancelled_while_it_waits_ends_at_once_and_can_be_resumed(login: LoginNode) -> None:
    login.hold_jobs()
    login.submit()

    assert login.orchestrator("cancel", "a").returncode == 0
    assert control.state(login.run()).state == "CANCELLED"
    assert login.queue() == []

    login.let_jobs_start()
    assert login.orchestrator("resume", "a").returncode == 0
    login.wait_for(lambda: control.state(login.run()).state == "SUCCEEDED", "success")


def test_a_running_run_is_cancelled_with_its_successor(login: LoginNode) -> None:
    login.submit("sleep 60")
    login.wait_for(lambda: events(login.run(), ["role_started"]), "the role")
    login.wait_for(lambda: events(login.run(), ["successor_queued"]), "the successor")

    assert login.orchestrator("cancel", "a").returncode == 0

    assert login.ended() == "CANCELLED"
    login.wait_for(lambda: login.queue() == [], "an empty queue")


def test_a_job_that_is_gone_before_it_began_is_not_waited_for(login: LoginNode) -> None:
    login.hold_jobs()
    job = login.submit()
    login.sandbox.run(["scancel", job], check=True)
    login.wait_for(lambda: login.queue() == [], "an empty queue")

    now = login.status()

    assert now["state"] == "LOST"
    assert f"Job {job} ended as CANCELLED" in now["cause"]
    assert login.orchestrator("resume", "a").returncode == 0


def test_an_option_that_slurm_refuses_leaves_no_run_behind(login: LoginNode) -> None:
    recipe = login.recipe()
    refusing = login.around_sbatch(before='set -- --partition=nowhere "$@"')

    done = login.orchestrator("submit", recipe, **refusing)

    assert done.returncode == 2
    assert "Slurm refused: sbatch: error: invalid partition specified: nowhere" in done.stderr
    assert list((login.folder / "runs").iterdir()) == []


def test_without_a_controller_nothing_is_left_that_blocks_a_later_submit(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "s", Options(nodes=2)) as sandbox:
        login = LoginNode(sandbox, tmp_path)
        recipe = login.recipe()
        sandbox.controller.stop(kill=True)
        down = login.orchestrator("submit", recipe)
        listed = login.orchestrator("list")
        sandbox.controller.start()

        assert down.returncode == 75
        assert "Slurm does not answer" in down.stderr
        assert "No runs in" in listed.stderr
        assert login.orchestrator("submit", recipe).returncode == 0
        assert login.ended() == "SUCCEEDED"


def test_a_watched_run_that_waits_asks_slurm_seldom(login: LoginNode) -> None:
    login.hold_jobs()
    recipe = login.recipe()
    before = login.sandbox.rpcs().of_clients

    watched = login.sandbox.run(
        [
            *["timeout", "7", "env", f"ORCH_RUNS={login.variables['ORCH_RUNS']}"],
            *[sys.executable, "-m", "orchestrator", "submit", str(recipe), "--follow"],
        ],
        cwd=CHECKOUT,
    )

    assert watched.returncode == 124
    assert "because its partition takes no jobs now" in watched.stderr
    assert login.sandbox.rpcs().of_clients - before == 2  # sbatch, and one question in seven seconds


def test_the_doctor_probes_a_node_and_leaves_nothing_behind(login: LoginNode) -> None:
    done = login.orchestrator("doctor", "--cluster", "sandbox", "--probe")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok       shared files: n" in done.stdout
    assert "ok       profile, roles.judge: Job " in done.stdout
    assert list((login.folder / "runs").iterdir()) == []


NOWHERE = """
from orchestrator import doctor
from orchestrator.profile import Profile
profile = Profile.model_validate({"executor": "slurm", "slurm": {"partition": "nowhere"}})
print(*doctor.look(profile, probe=False), sep="\\n")
"""


def test_the_doctor_names_a_partition_that_slurm_refuses(login: LoginNode) -> None:
    done = login.sandbox.run([sys.executable, "-c", NOWHERE], cwd=CHECKOUT)

    refused = "sbatch: Slurm refused: sbatch: error: invalid partition specified: nowhere"
    assert f"problem  profile, slurm: {refused}" in done.stdout


HETEROGENEOUS = """\
name: a
placement: hetjob
roles:
  train: {job: command, nodes: 2, with: {argv: [sleep, "3"]}}
  judge: {job: command, with: {argv: [sleep, "3"]}}
time_limit: 5m
"""


def test_a_heterogeneous_run_is_one_job_under_its_leaders_id(login: LoginNode) -> None:
    (login.folder / "a.yaml").write_text(HETEROGENEOUS)
    login.hold_jobs()
    job = login.orchestrator("submit", login.folder / "a.yaml", "--parsable").stdout.partition(";")[0]

    assert sorted(login.queue()) == [f"{job}+0", f"{job}+1"]
    assert login.status()["job"] == job
    assert login.orchestrator("resume", "a").returncode == 3

    login.let_jobs_start()
    assert login.ended() == "SUCCEEDED"
    login.wait_for(lambda: login.queue() == [], "an empty queue")


def test_a_waiting_heterogeneous_run_is_cancelled_whole(login: LoginNode) -> None:
    (login.folder / "a.yaml").write_text(HETEROGENEOUS)
    login.hold_jobs()
    login.orchestrator("submit", login.folder / "a.yaml")

    assert login.orchestrator("cancel", "a").returncode == 0

    assert login.queue() == []
