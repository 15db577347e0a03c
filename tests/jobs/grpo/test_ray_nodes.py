"""One role on two nodes, which are two processes here: what they compute, and how they end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from jobs.grpo.checkpoint import steps
from orchestrator import processes
from orchestrator.files import read_json

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
CHECKOUT = Path(__file__).parents[3]
TIMELESS = {"step", "critic", "reward", "actor"}


class Role:
    """The training role of a run started by hand, one process a node."""

    def __init__(self, out: Path, hosts: tuple[str, ...], **settings: Any) -> None:
        self.out, self.hosts = out, hosts
        self.nodes: list[subprocess.Popen[bytes]] = []
        out.mkdir()
        (out / "settings.yaml").write_text(yaml.safe_dump(settings))

    def start(self, rank: int) -> subprocess.Popen[bytes]:
        given = {"ORCH_NODES": ",".join(self.hosts), "ORCH_NODE_RANK": str(rank)} if len(self.hosts) > 1 else {}
        with open(self.out / f"node{rank}.log", "ab") as log:
            node = subprocess.Popen(
                [sys.executable, "-m", "jobs.grpo", "--settings", self.out / "settings.yaml", "--out", self.out],
                cwd=CHECKOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | given,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.nodes.append(node)
        return node

    def start_all(self) -> Role:
        for rank in range(len(self.hosts)):
            self.start(rank)
        return self

    def said(self, rank: int = 0) -> str:
        return (self.out / f"node{rank}.log").read_text(errors="replace")

    def lines(self, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
        file = self.out / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def wait_for_step(self, step: int) -> None:
        wait_for(lambda: len(self.lines()) >= step, lambda: f"step {step}: {self.said()[-2000:]}", 150)

    def history(self) -> list[dict[str, Any]]:
        """Return every metric and rollout that does not depend on the clock."""
        metrics = [{k: v for k, v in line.items() if k.split("/")[0] in TIMELESS} for line in self.lines()]
        return metrics + self.lines("rollouts.jsonl")

    def close(self) -> None:
        for node in self.nodes:
            node.terminate()
        for node in self.nodes:
            try:
                node.wait(30)
            except subprocess.TimeoutExpired:
                node.kill()


def wait_for(condition: Callable[[], Any], what: Callable[[], str], timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, what()
        time.sleep(0.05)


Make = Callable[..., Role]


@pytest.fixture
def make(tmp_path: Path, policy_folder: Path, data_file: Path) -> Iterator[Make]:
    roles: list[Role] = []

    def build(name: str, *hosts: str, **changes: Any) -> Role:
        settings = {
            "model": str(policy_folder),
            "data": {"path": str(data_file)},
            "rewards": {"repetition": {"weight": 1.0, "ngram": 1}},
            "engine": {"max_new_tokens": 8},
            "policy": {"learning_rate": 1e-3},
            "steps": 3,
            "prompts_per_step": 5,
            "samples_per_prompt": 2,
        }
        roles.append(Role(tmp_path / name, hosts or ("here",), **(settings | changes)))
        return roles[-1]

    yield build
    for role in roles:
        role.close()


def named(node: subprocess.Popen[bytes], name: str) -> list[processes.Process]:
    """Return a node's processes of that name."""
    found = []
    for process in processes.descendants(node.pid):
        try:
            title = Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found += [process] if name in title.split(" --", 1)[0] else []
    return found


def test_two_nodes_train_what_one_process_trains_beside_another_run(make: Make) -> None:
    alone = make("alone", ray=False).start_all()
    assert alone.nodes[0].wait(120) == 0, alone.said()
    two, beside = make("two", "train1", "train2").start_all(), make("beside").start_all()

    codes = [node.wait(240) for node in (*two.nodes, *beside.nodes)]

    assert codes == [0, 0, 0], two.said() + two.said(1) + beside.said()
    assert two.history() == alone.history()
    assert beside.history() == alone.history()
    for name in ("model/model.safetensors", "optimizer/optimizer.safetensors"):
        one, other = (load_file(role.out / "checkpoints" / "step_00000003" / name) for role in (alone, two))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    heads = [read_json(role.out / "roles" / "grpo" / "ray.json") for role in (two, beside)]
    assert len({head["address"] for head in heads}) == len({head["token_file"] for head in heads}) == 2
    assert [list((role.out / "secrets").iterdir()) for role in (two, beside)] == [[], []]


def test_a_node_that_does_not_come_is_named(make: Make) -> None:
    role = make("missing", "train1", "train2", ray_start_timeout_s=0.5)

    assert role.start(0).wait(120) == 1

    assert "error: Ray: 1 of 2 nodes did not join within 0.5 s: train2 has said nothing." in role.said()
    assert "waiting 0/0.5 s: for the Ray node(s) train2" in role.said()


def test_a_killed_driver_leaves_no_ray_on_other_nodes_and_the_next_one_gets_them(make: Make) -> None:
    role = make("killed", "train1", "train2", steps=10_000, checkpoint={"every_steps": 1})
    driver, node = role.start_all().nodes
    role.wait_for_step(1)
    rays = named(node, "raylet")
    assert rays

    driver.kill()
    driver.wait()

    wait_for(lambda: not processes.wait_gone(rays, 0), lambda: role.said(1)[-2000:], 10)
    assert node.poll() is None
    again = role.start(0)
    role.wait_for_step(len(role.lines()) + 1)
    again.send_signal(signal.SIGTERM)
    node.send_signal(signal.SIGUSR2)
    assert (again.wait(30), node.wait(30)) == (75, 0)
    assert steps(role.out / "checkpoints")[-1] == role.lines()[-1]["step"]


def test_the_loss_of_an_engine_names_its_node_and_loses_no_step(make: Make) -> None:
    # Long responses: nearly all of a step is sampling, and the loss falls into it.
    role = make(
        "lost", "train1", "train2", steps=10_000, checkpoint={"every_steps": 99_999}, engine={"max_new_tokens": 160}
    )
    driver, node = role.start_all().nodes
    role.wait_for_step(2)

    processes.kill(named(node, "ray::EngineActor"))

    assert driver.wait(60) == 1
    assert node.wait(20) == 0
    errors = [line for line in role.said().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: Ray worker: the engine on train2 died: ")
    saved = steps(role.out / "checkpoints")
    assert saved, "the policy was whole while the engines sampled"
    assert saved[-1] == role.lines()[-1]["step"]
