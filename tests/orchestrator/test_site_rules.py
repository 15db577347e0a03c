from __future__ import annotations

import pytest

from orchestrator import site_rules
from orchestrator.site_rules import Finding

ORDINARY = {
    "SLURM_VERSION": "26.05.1",
    "SchedulerType": "sched/backfill",
    "SchedulerParameters": "bf_interval=45,bf_continue",
    "PreemptType": "preempt/qos",
    "PreemptMode": "REQUEUE",
    "PreemptParameters": "send_user_signal",
    "AuthInfo": "(null)",
    "KillWait": "30 sec",
    "SlurmdTimeout": "300 sec",
    "ProctrackType": "proctrack/cgroup",
    "MpiDefault": "none",
    "MinJobAge": "300 sec",
    "RequeueExit": "(null)",
}
PARTITION = {"GraceTime": "600", "PreemptMode": "REQUEUE", "State": "UP", "TotalNodes": "4", "Nodes": "n[1-4]"}


def found(**changes: str) -> list[Finding]:
    return site_rules.findings(ORDINARY | changes, {"gpu": PARTITION})


def facts(findings: list[Finding], verdict: str = "warning") -> str:
    return "\n".join(str(finding) for finding in findings if finding.verdict == verdict)


def test_an_ordinary_cluster_has_nothing_to_complain_of() -> None:
    assert {finding.verdict for finding in found()} == {"ok"}
    told = facts(found(), "ok")
    assert "Heterogeneous jobs start when the backfill scheduler looks, every 45 s." in told
    assert "A preemption sends USR2 to the supervisor." in told
    assert "A requeued job would wait 121 s" in told


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        pytest.param({"SchedulerType": "sched/builtin"}, "heterogeneous jobs never start", id="no backfill"),
        pytest.param({"SlurmdTimeout": "0 sec"}, "never gives up a node", id="nodes are never lost"),
        pytest.param({"SlurmdTimeout": "900 sec"}, "SlurmdTimeout is 900 s", id="slow detection"),
        pytest.param({"ProctrackType": "proctrack/linuxproc"}, "may run on", id="processes escape"),
        pytest.param({"MpiDefault": "pmix"}, "MpiDefault is pmix", id="MPI"),
        pytest.param({"RequeueExit": "75,99"}, "requeues drained attempts", id="requeue by exit code"),
        pytest.param({"MinJobAge": "2 sec"}, "Slurm forgets how a job ended", id="short memory"),
    ],
)
def test_a_setting_that_hurts_is_one_warning(changes: dict[str, str], fact: str) -> None:
    warnings = [finding for finding in found(**changes) if finding.verdict == "warning"]

    assert len(warnings) == 1
    assert fact in warnings[0].fact


@pytest.mark.parametrize(
    ("version", "faults"),
    [
        pytest.param("22.05.8", ["CVE-2026-65107", "crash its controller when a heterogeneous job is sub"], id="old"),
        pytest.param("24.11.3", ["CVE-2026-65107", "PMIx"], id="24.11"),
        pytest.param("25.05.9", ["hang srun", "crashes slurmd", "component"], id="25.05, security faults fixed"),
        pytest.param("25.11.7", ["CVE-2026-65107"], id="25.11, nearly the newest"),
        pytest.param("25.11.8", [], id="25.11"),
        pytest.param("26.05.0-0rc1", [], id="26.05"),
    ],
)
def test_known_faults_of_a_version(version: str, faults: list[str]) -> None:
    told = [finding for finding in found(SLURM_VERSION=version) if finding.topic == "version"]

    assert [finding.verdict for finding in told] == (["warning"] * len(faults) or ["ok"])
    for finding, fault in zip(told, faults, strict=False):
        assert fault in finding.fact


def test_a_short_grace_and_a_suspending_partition_are_named() -> None:
    partitions = {"low": PARTITION | {"GraceTime": "5"}, "gang": PARTITION | {"PreemptMode": "GANG,SUSPEND"}}

    told = facts(site_rules.findings(ORDINARY, partitions))

    assert "Partition low gives a preempted job 5 s of grace" in told
    assert "Partition gang suspends jobs" in told


def test_without_the_user_signal_only_the_steps_hear_of_a_preemption() -> None:
    assert "SIGTERM to the roles' steps only" in facts(found(PreemptParameters="(null)"), "ok")
    assert "USR2 to the supervisor" in facts(
        found(PreemptParameters="(null)", SlurmctldParameters="preempt_send_user_signal"), "ok"
    )


def test_a_partition_that_is_down_is_named() -> None:
    assert "partition gpu: is DOWN." in facts(site_rules.findings(ORDINARY, {"gpu": PARTITION | {"State": "DOWN"}}))
