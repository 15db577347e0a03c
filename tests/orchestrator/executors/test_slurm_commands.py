"""Slurm's answers, as real ones were printed, and programs that answer wrongly or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.errors import InputError, SchedulerUnavailable
from orchestrator.executors import slurm_commands
from orchestrator.executors.slurm_commands import AnswerLost, Job

COMPONENT = """\
JobId={id} HetJobId=4 HetJobOffset={offset} JobName=na me
   HetJobIdSet=4-5
   JobState={state} Reason={reason} Dependency=(null)
   Requeue=0 Restarts=1 BatchFlag=1 Reboot=0 ExitCode={exit}
   SubmitTime=1795268369 EligibleTime=1795268369
   StartTime=1795268370 EndTime=1795271970 Deadline=N/A
   PreemptEligibleTime=1795268370 PreemptTime={preempted}
   ReqNodeList=(null) ExcNodeList=(null)
   NodeList={nodes}
   Command=/runs/a JobState=FAILED/submit.sbatch --submitit
   Comment=orch:a b:x JobState=TIMEOUT 
   Power=
"""


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose programs go before all others."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)


def component(**fields: str) -> str:
    known = {"id": "4", "offset": "0", "state": "RUNNING", "reason": "None", "exit": "0:0"}
    return COMPONENT.format(**(known | {"preempted": "None", "nodes": "n[1-2]"} | fields))


def shown(folder: Path, *components: str) -> Job | None:
    (folder / "answer").write_text("\n".join(components))
    program(folder, "scontrol", f"cat {folder}/answer")
    return slurm_commands.show("4")


def test_the_components_of_a_job_are_one_job_under_the_leaders_id(answers: Path) -> None:
    second = component(id="5", offset="1", nodes="n5")

    job = shown(answers, second, component())

    assert job is not None
    assert (job.id, job.state, job.node_list, job.restarts) == ("4", "RUNNING", "n[1-2],n5", 1)
    assert (job.submit_at, job.start_at, job.end_at) == (1795268369.0, 1795268370.0, 1795271970.0)
    assert [part.node_list for part in job.components] == ["n[1-2]", "n5"]


def test_text_of_the_users_own_is_not_taken_for_fields(answers: Path) -> None:
    job = shown(answers, component())

    assert job is not None
    assert (job.state, job.comment) == ("RUNNING", "orch:a b:x JobState=TIMEOUT")


def test_a_job_runs_as_long_as_a_component_runs(answers: Path) -> None:
    job = shown(answers, component(state="PENDING", nodes="(null)"), component(id="5", offset="1"))

    assert job is not None
    assert (job.state, job.over) == ("RUNNING", False)


@pytest.mark.parametrize(
    ("state", "exit_code", "code", "number"),
    [
        pytest.param("FAILED", "75:0", 75, None, id="drained"),
        pytest.param("NODE_FAIL", "0:0", 0, None, id="node lost"),
        pytest.param("CANCELLED", "0:15", 0, 15, id="cancelled"),
        pytest.param("RUNNING", "0:0", None, None, id="not ended"),
    ],
)
def test_how_a_job_ended(answers: Path, state: str, exit_code: str, code: int | None, number: int | None) -> None:
    job = shown(answers, component(state=state, exit=exit_code))

    assert job is not None
    assert (job.exit_code, job.signal) == (code, number)


def test_a_preempted_job_says_when(answers: Path) -> None:
    job = shown(answers, component(preempted="1795268400"))

    assert job is not None
    assert job.preempt_at == 1795268400.0


def test_a_job_that_slurm_has_forgotten_is_none(answers: Path) -> None:
    program(answers, "scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")

    assert slurm_commands.show("4") is None


def test_own_jobs_are_found_by_their_comment_alone(answers: Path) -> None:
    lines = [
        "10|PENDING|1|N/A||(null)|Resources|orch:a:1",
        "2+1|RUNNING|1|2|n5|(null)|None|orch:a:1",
        "2+0|RUNNING|1|2|n1|(null)|None|orch:a:1",
        "3|PENDING|1|N/A||(null)|Priority|orch:a:11",
        "4|PENDING|1|N/A||(null)|Priority|mine|with bars|",
    ]
    program(answers, "squeue", "cat <<'END'\n" + "\n".join(lines) + "\nEND\n")

    assert [(job.id, job.state, job.reason) for job in slurm_commands.by_comment("orch:a:1")] == [
        ("2", "RUNNING", ""),
        ("10", "PENDING", "Resources"),
    ]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        pytest.param("Unable to contact slurm controller (connect failure)", SchedulerUnavailable, id="down"),
        pytest.param("Socket timed out on send/recv operation", AnswerLost, id="answer lost"),
        pytest.param("Batch job submission failed: Invalid qos specification", InputError, id="refused"),
    ],
)
def test_what_sbatch_complains_of(answers: Path, said: str, kind: type[Exception]) -> None:
    program(answers, "sbatch", f"echo 'sbatch: error: {said}' >&2; exit 1")

    with pytest.raises(
        (SchedulerUnavailable, InputError), match=said.replace("(", r"\(").replace(")", r"\)")
    ) as caught:
        slurm_commands.submit(Path("x.sbatch"), [], [])

    assert type(caught.value) is kind


def test_a_program_that_hangs_is_given_up(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(answers, "sbatch", "exec sleep 30")
    monkeypatch.setattr(slurm_commands, "SUBMIT_TIMEOUT_S", 0.2)

    with pytest.raises(AnswerLost, match=r"Slurm has not answered within 0\.2 s"):
        slurm_commands.submit(Path("x.sbatch"), [], [])


def test_a_machine_without_slurm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SchedulerUnavailable, match="scontrol: there is no such program on the PATH"):
        slurm_commands.show("1")


def test_programs_get_nothing_of_the_environment_but_the_way_to_the_cluster(
    answers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SLURM_TIME_FORMAT", "HF_TOKEN"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    program(answers, "sbatch", f"env | cut -d= -f1 | sort > {answers}/seen; echo 7")

    slurm_commands.submit(Path("x.sbatch"), [], [])

    seen = set((answers / "seen").read_text().split()) - {"PWD", "_", "SHLVL", "OLDPWD"}
    assert "SLURM_CONF" in seen
    assert seen <= set(slurm_commands.PASSED_ON)


def test_a_site_that_prints_sentences_before_the_id_is_understood(answers: Path) -> None:
    program(answers, "sbatch", "echo 'Welcome to the cluster. Budget left: 12 h.'; echo '123;alpha'")

    assert slurm_commands.submit(Path("x.sbatch"), [], []) == "123"


def test_cancelling_what_has_ended_is_no_error(answers: Path) -> None:
    program(
        answers, "scancel", "echo 'scancel: error: Kill job error on job id 3: Invalid job id specified' >&2; exit 1"
    )
    slurm_commands.cancel(["3"])

    program(answers, "scancel", "echo 'scancel: error: Access/permission denied' >&2; exit 1")
    with pytest.raises(InputError, match="permission denied"):
        slurm_commands.cancel(["3"])
