"""The gate before a service that runs elsewhere: published while it answers, and only then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import progress, rendezvous
from orchestrator.allocation import external
from orchestrator.errors import InputError
from orchestrator.ledger import Ledger
from orchestrator.plan import Role
from orchestrator.rendezvous import Endpoint
from orchestrator.run_directory import RunDirectory
from tests.orchestrator.allocation.fakes.backend import Backend
from tests.orchestrator.allocation.runs import CHECKOUT, make_run, service, wait_for

KEY = "the-users-key"


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend(model="big-judge", key=KEY)
    yield made
    made.close()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "api.key"
    path.write_text(KEY + "\n")
    return path


def role(url: str, key_file: Path | str, model: str = "big-judge") -> Role:
    return service("judge", url=url, settings={"model": model, "api_key_file": str(key_file)})


def gate(folder: Path, role: Role) -> RunDirectory:
    """Run the gate until its first check is over."""
    run = make_run(folder, role)
    looks = iter((False, True))
    external.gate(run, role, 2, lambda: next(looks))
    return run


class Process:
    """The gate as the supervisor starts it."""

    def __init__(self, folder: Path, role: Role) -> None:
        self.run = make_run(folder, role)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.allocation.external", "--run-dir", self.run.path, "--role", "judge"],
            cwd=CHECKOUT,
            env=os.environ | {"ORCH_GENERATION": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )

    def endpoint(self) -> Endpoint | None:
        return rendezvous.lookup(self.run, "judge-0", generation=2)

    def end(self) -> tuple[int, str]:
        """Ask it to stop; return its exit code and what it said."""
        self.process.send_signal(signal.SIGUSR2)
        said = self.process.communicate(timeout=10)[1]
        return self.process.returncode, said


def test_a_service_that_answers_is_published_until_the_gate_is_told_to_stop(
    tmp_path: Path, backend: Backend, key_file: Path
) -> None:
    gate = Process(tmp_path, role(backend.url, key_file))

    endpoint = wait_for(gate.endpoint, "the endpoint")
    code, said = gate.end()

    assert (endpoint.url, endpoint.model, endpoint.api_key_file) == (backend.url, "big-judge", str(key_file))
    assert (code, gate.endpoint()) == (0, None)
    assert KEY not in said


def test_a_service_that_is_away_is_waited_for(tmp_path: Path, backend: Backend, key_file: Path) -> None:
    backend.close()

    run = gate(tmp_path, role(backend.url, key_file))

    said = progress.read_one(run.progress, "judge")
    assert said is not None
    assert said.phase == "waiting"
    assert said.message.startswith(f"for {backend.url}: ")
    assert list(run.endpoints.iterdir()) == []


def test_a_refused_key_is_wrong_input(tmp_path: Path, backend: Backend, key_file: Path) -> None:
    key_file.write_text("another")

    with pytest.raises(InputError, match=r"refuses us: it answers with status 401. Correct with.api_key_file"):
        gate(tmp_path, role(backend.url, key_file))


def test_a_key_file_that_is_not_there_is_wrong_input(tmp_path: Path, backend: Backend) -> None:
    with pytest.raises(InputError, match=r"roles.judge.with.api_key_file: /no/such.key cannot be read"):
        gate(tmp_path, role(backend.url, "/no/such.key"))


def test_a_model_that_is_not_served_is_wrong_input(tmp_path: Path, backend: Backend, key_file: Path) -> None:
    with pytest.raises(InputError, match=r"does not serve 'other'. It has: big-judge"):
        gate(tmp_path, role(backend.url, key_file, model="other"))


def test_a_gate_of_an_older_attempt_ends(tmp_path: Path, backend: Backend, key_file: Path) -> None:
    made = role(backend.url, key_file)
    run = make_run(tmp_path, made)
    Ledger(run.ledger, 3).append("attempt_started")
    gate = Process(tmp_path, made)
    newer = wait_for(gate.endpoint, "the endpoint")
    gate.process.kill()
    gate.process.communicate()
    rendezvous.publish(run, Endpoint(**(vars(newer) | {"generation": 3, "nonce": "new"})))

    again = Process(tmp_path, made)

    said = again.process.communicate(timeout=10)[1]
    assert again.process.returncode == 3
    assert "attempt 3 has published its own" in said
