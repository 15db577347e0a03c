"""``verify-resume`` on real runs: a tiny policy trained with rewards by rule, left alone and killed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.data import synthetic
from jobs.data.geo3k import load
from jobs.tiny import shapes, tokenizer
from orchestrator.run_directory import RunDirectory
from tests import demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 7
SEED = 3
"""One of those whose only kill is late enough for a checkpoint to lie behind it."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a tiny policy and a file of scenes."""
    folder = tmp_path_factory.mktemp("models")
    data = folder / "scenes.parquet"
    synthetic.write(data, synthetic.scenes("train", 12, seed=1))
    words = tokenizer.build([row.problem for row in load(data)] + ["<think> </think> <answer> </answer>"])
    shapes.save_policy(folder / "policy", words, hidden=64, layers=2, seed=1)
    return folder / "policy", data


def recipe(folder: Path, policy: tuple[Path, Path], *, ray: bool) -> Path:
    """Return a recipe that trains for some seconds, with a role after training that training does not need."""
    settings = {
        "model": str(policy[0]),
        "data": {"path": str(policy[1])},
        "rewards": {"repetition": {"weight": 1.0, "ngram": 1}},
        "engine": {"max_new_tokens": 24},
        "policy": {"learning_rate": 1e-3},
        "steps": STEPS,
        "prompts_per_step": 5,
        "samples_per_prompt": 4,
        "checkpoint": {"every_steps": 2},
        "ray": ray,
    }
    roles = {
        "train": {"job": "grpo", "on_failure": {"restart": 1, "backoff_s": 0}, "with": settings},
        "later": {"job": "command", "after": ["train"], "with": {"argv": ["false"]}},
    }
    path = folder / "proved.yaml"
    path.write_text(yaml.safe_dump({"name": "proved", "roles": roles, "time_limit": "10m"}))
    return path


def prove(runs: Path, *arguments: str | Path) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    done = demo.orchestrator("verify-resume", *map(str, arguments), "--json", runs=runs, timeout_s=600)
    assert done.stdout, done.stderr[-5000:]
    return json.loads(done.stdout), done


@pytest.mark.parametrize("ray", [False, True], ids=["one process", "Ray"])
def test_a_run_killed_three_times_is_proved_to_end_with_the_same_bits(
    tmp_path: Path, policy: tuple[Path, Path], ray: bool
) -> None:
    certificate, done = prove(tmp_path / "runs", recipe(tmp_path, policy, ray=ray))

    assert (done.returncode, certificate["verdict"]) == (0, "identical"), certificate["first_difference"]
    assert certificate["promise"]["bits"]
    assert all(check["equal"] and check["promised"] for check in certificate["compared"])
    kills = certificate["kills"]
    assert sorted(kill["planned"]["what"] for kill in kills) == sorted(
        ["driver", "worker" if ray else "driver", "preemption"]
    )
    assert all(kill["happened"] for kill in kills)
    workers = [kill["name"] for kill in kills if kill["planned"]["what"] == "worker"]
    assert all(name.startswith("ray::") for name in workers)
    assert certificate["ledger"]["attempts"] == 2
    assert certificate["ledger"]["ends"] == ["drained", "done"]
    assert certificate["ledger"]["starts"] == 4
    assert "roles.later=null" in certificate["recipe"]["overrides"]
    killed = RunDirectory(tmp_path / "runs" / "proved-killed")
    assert json.loads((killed.path / "certificate.json").read_text()) == certificate
    assert demo.processes_of(killed) == []


def test_a_reward_that_remembers_what_no_checkpoint_holds_is_found_out(
    tmp_path: Path, policy: tuple[Path, Path]
) -> None:
    forgetful = "train.rewards={repetition: {weight: 1.0, ngram: 1}, tests.forgetful_reward:steps_alive: 0.5}"

    certificate, done = prove(
        tmp_path / "runs",
        recipe(tmp_path, policy, ray=False),
        forgetful,
        "train.checkpoint.every_steps=1",
        *("--kills", "1", "--seed", str(SEED)),
    )

    assert (done.returncode, certificate["verdict"]) == (1, "different")
    kill = certificate["kills"][0]
    assert kill["happened"]
    assert kill["resumed_from"] >= 1
    # The reward is the same for all responses to a prompt, so nothing is learned from it.
    unequal = {check["name"] for check in certificate["compared"] if not check["equal"]}
    assert unequal == {"rewards", "metrics"}
    assert "rewards is" in certificate["first_difference"]
    step = int(re.search(r"step (\d+)", certificate["first_difference"])[1])
    assert step > kill["resumed_from"]
