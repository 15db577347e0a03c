"""A real judge behind supervisor and gateway: vLLM or ``transformers serve`` on a tiny Qwen2."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from orchestrator import processes
from orchestrator.plan import Role
from tests.jobs.judge import tiny_model
from tests.orchestrator.allocation.runs import (
    batch,
    events,
    make_run,
    processes_of,
    supervise,
    wait_for,
    wait_for_event,
)

LOADED_S = 240.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model.write(tmp_path_factory.mktemp("model")))


def judge(model: str, engine: str) -> Role:
    settings = {"model": model, "engine": engine, "max_model_len": 512}
    return Role(
        name="judge",
        job="judge",
        kind="service",
        start_timeout_s=LOADED_S,
        backoff_s=0.1,
        drain_s=20,
        settings=settings,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_vllm_judges_behind_the_gateway_and_comes_back_after_a_kill(tmp_path: Path, model: str) -> None:
    run = make_run(
        tmp_path,
        judge(model, "vllm"),
        batch("train", needs=("judge",), settings={"ask": "judge"}),
        batch("wait", after=("train",), settings={"sleep_s": 3}),
        batch("eval", after=("wait",), needs=("judge",), settings={"ask": "judge"}),
        time_limit_s=550,
    )
    supervisor = supervise(run)
    try:
        wait_for(lambda: (run.path / "train.answer").exists(), "the first verdict", LOADED_S)
        answer = json.loads((run.path / "train.answer").read_text())
        assert answer["choices"][0]["message"]["role"] == "assistant"
        wait_for_event(run, "role_started", role="wait")

        server = events(run, "role_started", role="judge")[0].fields["pid"]
        engine = [p.pid for p in processes.descendants(server)]
        os.kill(server, signal.SIGKILL)

        assert supervisor.wait(LOADED_S) == 0
        assert (run.path / "eval.answer").exists()
        assert len(events(run, "service_ready", role="judge")) == 2
        assert len(engine) >= 2
        assert [pid for pid in engine if processes.find(pid) is not None] == []
        assert processes_of(run) == []
        keys = [(run.secrets / name).read_text() for name in ("judge.key", "judge-backend.key")]
        logs = [log.read_text(errors="replace") for log in run.attempt(1).glob("*.log")]
        assert not any(key in log for key in keys for log in logs)
    finally:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_transformers_judges_where_vllm_has_no_build(tmp_path: Path, model: str) -> None:
    run = make_run(
        tmp_path,
        judge(model, "transformers"),
        batch("train", needs=("judge",), settings={"ask": "judge"}),
        time_limit_s=280,
    )

    supervisor = supervise(run)
    try:
        assert supervisor.wait(LOADED_S) == 0
    finally:
        supervisor.kill()

    assert json.loads((run.path / "train.answer").read_text())["choices"][0]["message"]["role"] == "assistant"


def test_a_judge_without_its_model_fails_at_once_with_the_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path, judge("/no/such/model", "vllm"), batch("train", needs=("judge",)))

    assert supervise(run).wait(30) == 1

    finished = events(run, "run_finished")[-1].fields
    assert finished["diagnosis"] == (
        "judge: error: roles.judge.with.model: /no/such/model is not a folder. (attempts/1/judge-0.log:1)"
    )
    assert len(events(run, "role_started", role="judge")) == 1
