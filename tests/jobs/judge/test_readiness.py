from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs.judge.readiness import Probe, WrongServer
from tests.orchestrator.allocation.fakes.backend import Backend

ANSWER = {"choices": [{"message": {"content": "yes"}}]}


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend(model="judge-abc", key="right")
    made.answer = ANSWER
    yield made
    made.close()


def probe(backend: Backend, *, key: str = "right", model: str = "judge-abc") -> Probe:
    port = int(backend.url.split(":")[2].split("/")[0])
    return Probe(host="127.0.0.1", port=port, model=model, lists_models=True, key=key)


def test_a_server_that_answers_a_completion_is_ready(backend: Backend) -> None:
    assert probe(backend).ready()
    assert backend.served == [
        {
            "model": "judge-abc",
            "messages": [{"role": "user", "content": "Say yes."}],
            "max_tokens": 1,
            "temperature": 0,
        }
    ]


def test_a_port_nobody_listens_on_is_not_ready_yet() -> None:
    gone = Backend(model="judge-abc", key="right")
    gone.close()
    assert not probe(gone).ready()
    assert not probe(gone).healthy()


def test_a_server_that_refuses_our_key_is_another_one(backend: Backend) -> None:
    with pytest.raises(WrongServer, match="Another program has taken the server's port"):
        probe(backend, key="wrong").ready()


def test_a_server_of_another_model_is_another_one(backend: Backend) -> None:
    with pytest.raises(WrongServer, match="does not list 'judge-xyz'"):
        probe(backend, model="judge-xyz").ready()


@pytest.mark.parametrize("status", [400, 500])
def test_a_server_that_lists_its_model_but_cannot_answer_is_not_ready(backend: Backend, status: int) -> None:
    backend.status = status
    with pytest.raises(WrongServer, match=f"the first chat completion was answered with status {status}"):
        probe(backend).ready()


def test_an_answer_without_a_choice_is_no_answer(backend: Backend) -> None:
    backend.answer = {"choices": []}
    with pytest.raises(WrongServer, match="status 200"):
        probe(backend).ready()


def test_a_server_that_is_busy_is_asked_again(backend: Backend) -> None:
    backend.status = 503
    assert not probe(backend).ready()


def test_health_is_what_the_server_says(backend: Backend) -> None:
    assert probe(backend).healthy()
    backend.healthy = False
    assert not probe(backend).healthy()
