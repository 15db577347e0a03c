"""One sandbox for the tests of a module that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.sandbox import Options, Sandbox
from tests.orchestrator.executors.login_node import LoginNode


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("slurm"), Options(grace_s=3)) as found:
        yield found


@pytest.fixture
def login(sandbox: Sandbox, tmp_path: Path) -> Iterator[LoginNode]:
    """The command line on a login node, with a folder for runs of its own; its jobs are gone afterwards."""
    node = LoginNode(sandbox, tmp_path)
    yield node
    sandbox.run(["scancel", "--me"], check=True)
    node.wait_for(lambda: node.queue() == [], "an empty queue")
    node.let_jobs_start()
