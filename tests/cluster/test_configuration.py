from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from cluster.sandbox import Options, addresses, configuration
from cluster.sandbox.addresses import Addresses
from cluster.sandbox.questions import Rpcs

FOLDER = Path("/home/ada/slurm")
NETNS = Addresses(controller_port=20100, subnet="10.81.7")
SHARED = Addresses(controller_port=20100, subnet="")


def site(where: Addresses = NETNS) -> configuration.Site:
    return configuration.Site(folder=FOLDER, addresses=where, hostname="login", user="ada", proctrack="cgroup")


def test_judge_and_train_share_one_node_and_urgent_has_all() -> None:
    found = configuration.partitions(Options(nodes=6))

    assert found == {
        "train": ("n1", "n2", "n3", "n4"),
        "judge": ("n4", "n5", "n6"),
        "urgent": ("n1", "n2", "n3", "n4", "n5", "n6"),
    }


def test_each_node_has_an_address_unless_they_share_one() -> None:
    own = configuration.slurm_conf(Options(), site())
    shared = configuration.slurm_conf(Options(), site(SHARED))

    assert "NodeName=n2 NodeAddr=10.81.7.3 Port=20102 " in own
    assert "SlurmctldHost=login(10.81.7.1)" in own
    assert "NodeName=n2 NodeHostname=login NodeAddr=127.0.0.1 Port=20102 " in shared


def test_urgent_jobs_preempt_the_others_after_the_grace() -> None:
    lines = configuration.slurm_conf(Options(grace_s=20), site()).splitlines()

    partitions = [line for line in lines if line.startswith("PartitionName=")]
    assert "PartitionName=train Nodes=n1,n2,n3,n4 Default=YES" in partitions[0]
    assert partitions[0].endswith("PriorityTier=1 PreemptMode=REQUEUE GraceTime=20")
    assert partitions[2].endswith("PriorityTier=10 PreemptMode=OFF")


def test_the_default_backfill_sets_no_parameter_of_the_scheduler() -> None:
    assert "SchedulerParameters" in configuration.slurm_conf(Options(backfill="fast"), site())
    assert "SchedulerParameters" not in configuration.slurm_conf(Options(backfill="default"), site())


def test_nodes_know_each_other_by_name() -> None:
    assert configuration.hosts(Options(nodes=2), site()) == (
        "127.0.0.1 localhost\n::1 localhost ip6-localhost\n10.81.7.1 login\n10.81.7.2 n1\n10.81.7.3 n2\n"
    )


def test_all_wrong_options_are_reported_at_once() -> None:
    with pytest.raises(ValueError, match=r"nodes=1: must be 2 to 64\. cred_expire_s=2: must be 5 to 86400\."):
        Options(nodes=1, cred_expire_s=2)


def test_options_survive_their_record() -> None:
    options = Options(nodes=3, requeue_exit=(85, 86), backfill="default")

    assert Options.from_json(options.to_json()) == options


def test_a_network_in_use_is_not_taken() -> None:
    first = addresses.choose(FOLDER, 6, [])

    second = addresses.choose(FOLDER, 6, [IPv4Network(f"{first.subnet}.0/24")])
    third = addresses.choose(FOLDER, 6, [IPv4Network("10.0.0.0/8")])

    assert second.subnet not in ("", first.subnet)
    assert third.subnet.startswith("172.")


def test_names_of_interfaces_fit_the_kernels_fifteen_characters() -> None:
    assert max(len(addresses.bridge(FOLDER)), len(addresses.cable(FOLDER, 64))) <= 15


def test_requests_of_nodes_and_of_the_question_are_not_the_clients() -> None:
    text = """
Remote Procedure Call statistics by message type
\tMESSAGE_NODE_REGISTRATION_STATUS        ( 1002) count:6      ave_time:144    total_time:867
\tREQUEST_JOB_INFO_SINGLE                 ( 2021) count:3      ave_time:144    total_time:867
\tREQUEST_STATS_INFO                      ( 2035) count:1      ave_time:144    total_time:867

Remote Procedure Call statistics by user
\troot            (       0) count:10     ave_time:3157   total_time:31576

Pending RPC statistics
\tNo pending RPCs
"""

    found = Rpcs.parse(text)

    assert found.by_user == {"root": 10}
    assert found.by_type["REQUEST_JOB_INFO_SINGLE"] == 3
    assert found.of_clients == 3
