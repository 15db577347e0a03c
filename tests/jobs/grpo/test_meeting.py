"""How nodes and driver find each other, and how nobody waits for somebody who is gone."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.entry import DRAINED, Context, Drain
from jobs.grpo import cluster, meeting, ray_node
from jobs.grpo.cluster import Cluster
from jobs.grpo.meeting import Head
from jobs.grpo.settings import Settings
from orchestrator import progress
from orchestrator.errors import RunFailed
from orchestrator.ledger import Ledger
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory

HEAD = Head(address="127.0.0.1:1", generation=2, nonce="a", token_file="/t")
NODE = Cluster(hosts=("train1", "train2"), rank=1, cpus=4)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    run = RunDirectory(tmp_path)
    run.create()
    (tmp_path / "roles" / "train").mkdir(parents=True)
    ledger, said = Ledger(run.ledger, 2), Progress(run.progress, "train")
    return Context(run=run, role="train", generation=2, plan=None, ledger=ledger, progress=said)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    values = {"model": "m", "data": {"path": str(tmp_path)}, "rewards": {"repetition": {"weight": 1.0}}}
    return Settings.model_validate(values | {"ray_start_timeout_s": 0.5})


@contextmanager
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def serve(context: Context, settings: Settings, drain: Drain | None = None) -> int:
    return ray_node.serve(context, settings, NODE, drain or Drain())


def test_a_published_head_is_found_by_its_own_attempt_only(tmp_path: Path) -> None:
    meeting.publish(tmp_path / "ray.json", HEAD)

    assert meeting.find(tmp_path / "ray.json", 2) == HEAD
    assert meeting.find(tmp_path / "ray.json", 3) is None
    assert meeting.find(tmp_path / "none.json", 2) is None


def test_a_head_that_others_could_have_written_is_not_believed(tmp_path: Path) -> None:
    meeting.publish(tmp_path / "ray.json", HEAD)
    os.chmod(tmp_path / "ray.json", 0o620)

    assert meeting.find(tmp_path / "ray.json", 2) is None


def test_a_driver_begins_without_what_a_killed_one_left_and_ends_by_letting_all_go(tmp_path: Path) -> None:
    path = tmp_path / "ray.json"
    meeting.publish(path, HEAD)

    with meeting.chaired(path, 2):
        assert meeting.find(path, 2) is None
        meeting.publish(path, replace(HEAD, nonce="b"))

    head = meeting.find(path, 2)
    assert head is not None
    assert head.released


def test_a_node_that_comes_after_the_driver_of_its_job_step_has_ended_does_not_wait(
    context: Context, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_STEP_ID", "3")
    with meeting.chaired(meeting.place(context.run, "train"), 2):
        pass

    assert serve(context, settings) == 0


def test_what_a_driver_of_an_earlier_start_said_is_not_for_this_node(context: Context, settings: Settings) -> None:
    with meeting.chaired(meeting.place(context.run, "train"), 2):
        pass

    with pytest.raises(RunFailed, match=r"no driver came within 0\.5 s again"):
        serve(context, settings)


def test_a_node_says_what_it_waits_for_and_gives_up(context: Context, settings: Settings) -> None:
    meeting.publish(meeting.place(context.run, "train"), HEAD)  # nobody listens there

    with pytest.raises(RunFailed, match=r"no driver came within 0\.5 s\. The log of rank 0 says why"):
        serve(context, settings)

    said = progress.read_one(context.run.progress, "train-node1")
    assert said is not None
    assert (said.phase, said.message) == ("waiting", "for the driver's Ray")


def test_a_node_without_a_driver_stops_when_asked(context: Context, settings: Settings) -> None:
    drain = Drain()
    drain.requested = True

    assert serve(context, settings, drain) == DRAINED


def test_an_address_answers_if_somebody_listens() -> None:
    with listening() as address:
        assert ray_node.answers(address)
    assert not ray_node.answers(address)


def test_the_command_line_of_a_node_names_exact_counts_and_no_secret() -> None:
    head = replace(HEAD, token_file="/run/secrets/token")
    argv = ray_node.command(head, replace(NODE, gpus_per_node=8), "/disk")

    assert argv[1:] == [
        "-m",
        "ray.scripts.scripts",
        "start",
        "--block",
        "--disable-usage-stats",
        "--address=127.0.0.1:1",
        "--node-ip-address=127.0.0.2",
        "--num-cpus=4",
        "--num-gpus=8",
        '--resources={"rank1": 1}',
        argv[11],
        "--temp-dir=/disk",
        "--min-worker-port=0",
        "--max-worker-port=0",
    ]
    assert argv[11].startswith("--object-store-memory=")


@pytest.mark.parametrize(
    ("slurm", "cpus"), [pytest.param({"SLURM_CPUS_ON_NODE": "6"}, 6, id="slurm"), pytest.param({}, None, id="laptop")]
)
def test_a_node_knows_its_place_and_its_processors(
    context: Context, monkeypatch: pytest.MonkeyPatch, slurm: dict[str, str], cpus: int | None
) -> None:
    for name, value in ({"ORCH_NODES": "train1,train2", "ORCH_NODE_RANK": "1"} | slurm).items():
        monkeypatch.setenv(name, value)

    own = cluster.own(context)

    assert (own.hosts, own.rank, own.cpus) == (("train1", "train2"), 1, cpus or os.cpu_count())


def test_an_older_driver_does_not_send_the_nodes_of_a_newer_one_home(tmp_path: Path) -> None:
    path = tmp_path / "ray.json"
    older = meeting.Head(address="a", generation=1, nonce="1", token_file="", step="")
    newer = meeting.Head(address="b", generation=2, nonce="2", token_file="", step="")
    meeting.publish(path, newer)
    meeting.release(path, older)
    assert meeting.find(path, 2) == newer
    meeting.release(path, newer)
    released = meeting.find(path, 2)
    assert released is not None
    assert released.released
