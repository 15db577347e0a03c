from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import rendezvous
from orchestrator.errors import ConflictError
from orchestrator.rendezvous import Endpoint
from orchestrator.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path)
    made.create()
    return made


def endpoint(generation: int = 2, nonce: str = "a", lease_s: float = 30.0) -> Endpoint:
    return Endpoint(
        name="judge-0",
        url="http://10.0.0.7:4321/v1",
        model="judge-a",
        api_key_file="/run/secrets/judge-backend.key",
        generation=generation,
        nonce=nonce,
        pid=1,
        host="gpu7",
        lease_until=time.time() + lease_s,
    )


def test_an_endpoint_is_found_by_its_own_attempt(run: RunDirectory) -> None:
    published = endpoint()
    rendezvous.publish(run, published)

    assert rendezvous.lookup(run, "judge-0", generation=2) == published


@pytest.mark.parametrize("generation", [1, 3])
def test_an_endpoint_of_another_attempt_is_not_used(run: RunDirectory, generation: int) -> None:
    rendezvous.publish(run, endpoint())
    assert rendezvous.lookup(run, "judge-0", generation=generation) is None


def test_an_endpoint_whose_lease_has_run_out_is_not_used(run: RunDirectory) -> None:
    rendezvous.publish(run, endpoint(lease_s=-0.1))
    assert rendezvous.lookup(run, "judge-0", generation=2) is None


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o606])
def test_an_endpoint_that_others_may_read_or_write_is_not_used(run: RunDirectory, mode: int) -> None:
    rendezvous.publish(run, endpoint())
    os.chmod(run.endpoints / "judge-0.json", mode)
    assert rendezvous.lookup(run, "judge-0", generation=2) is None


def test_a_link_to_an_endpoint_is_not_used(run: RunDirectory) -> None:
    rendezvous.publish(run, replace(endpoint(), name="other"))
    (run.endpoints / "judge-0.json").symlink_to(run.endpoints / "other.json")
    assert rendezvous.lookup(run, "judge-0", generation=2) is None


def test_a_server_on_a_node_that_was_cut_off_cannot_hide_its_successor(run: RunDirectory) -> None:
    rendezvous.publish(run, endpoint(generation=3, nonce="new"))

    with pytest.raises(ConflictError, match=r"endpoints/judge-0.json: attempt 3 has published its own; attempt 2"):
        rendezvous.publish(run, endpoint(generation=2))

    found = rendezvous.lookup(run, "judge-0", generation=3)
    assert found is not None
    assert found.nonce == "new"


def test_a_later_start_and_a_later_attempt_take_over(run: RunDirectory) -> None:
    for generation, nonce in ((2, "a"), (2, "b"), (3, "c")):
        rendezvous.publish(run, endpoint(generation=generation, nonce=nonce))

    found = rendezvous.lookup(run, "judge-0", generation=3)
    assert found is not None
    assert found.nonce == "c"


def test_only_the_start_that_published_it_withdraws_an_endpoint(run: RunDirectory) -> None:
    rendezvous.publish(run, endpoint(nonce="new"))

    rendezvous.withdraw(run, "judge-0", "old")
    assert rendezvous.lookup(run, "judge-0", generation=2) is not None

    rendezvous.withdraw(run, "judge-0", "new")
    assert rendezvous.lookup(run, "judge-0", generation=2) is None


@pytest.mark.parametrize("leader", [None, "127.0.0.1", "localhost"])
def test_on_one_machine_nothing_listens_on_the_network(monkeypatch: pytest.MonkeyPatch, leader: str | None) -> None:
    monkeypatch.delenv("ORCH_LEADER", raising=False)
    if leader:
        monkeypatch.setenv("ORCH_LEADER", leader)

    assert rendezvous.own_address() == "127.0.0.1"


def test_a_key_is_made_once_and_for_its_owner_alone(run: RunDirectory) -> None:
    path = rendezvous.api_key(run, "judge")
    first = rendezvous.read_key(path)

    assert rendezvous.read_key(rendezvous.api_key(run, "judge")) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(first) >= 32
