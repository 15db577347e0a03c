"""The gateway as a process, with faulty servers behind it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import rendezvous
from orchestrator.rendezvous import Endpoint
from tests.orchestrator.allocation.fakes.backend import Backend
from tests.orchestrator.allocation.runs import CHECKOUT, make_run, service, wait_for

GENERATION = 3


class Site:
    """A run with a gateway and as many servers as a test wants."""

    def __init__(self, folder: Path, replicas: int = 2, start_timeout_s: float = 20.0, url: str = "") -> None:
        self.run = make_run(folder, service("judge", replicas=replicas, start_timeout_s=start_timeout_s, url=url))
        self.backends: list[Backend] = []
        self.pool = ThreadPoolExecutor(16)
        rendezvous.api_key(self.run, "judge")
        self.backend_key = rendezvous.read_key(rendezvous.api_key(self.run, "judge-backend"))
        self.gateway = self.start()

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator.allocation.gateway", "--run-dir", str(self.run.path), *options],
            cwd=CHECKOUT,
            env=dict(os.environ) | {"ORCH_GENERATION": str(GENERATION)},
            stderr=subprocess.DEVNULL,
        )

    def add(
        self, replica: int, *, generation: int = GENERATION, key: str | None = None, api_key_file: Path | None = None
    ) -> Backend:
        """Start a server and publish it."""
        nonce = f"{replica}-{len(self.backends)}"
        backend = Backend(model=f"fake-{nonce}", key=key or self.backend_key, name=nonce)
        self.backends.append(backend)
        self.publish(replica, backend, generation=generation, api_key_file=api_key_file)
        return backend

    def publish(
        self, replica: int, backend: Backend, *, generation: int = GENERATION, api_key_file: Path | None = None
    ) -> None:
        endpoint = Endpoint(
            name=f"judge-{replica}",
            url=backend.url,
            model=backend.model,
            api_key_file=str(api_key_file or self.run.secrets / "judge-backend.key"),
            generation=generation,
            nonce=backend.name,
            pid=os.getpid(),
            host=socket.gethostname(),
            lease_until=time.time() + 60,
        )
        rendezvous.publish(self.run, endpoint)

    def endpoint(self) -> Endpoint | None:
        return rendezvous.lookup(self.run, "judge", generation=GENERATION)

    def published(self) -> Endpoint:
        found = wait_for(self.endpoint, "the gateway's endpoint")
        assert isinstance(found, Endpoint)
        return found

    def request(
        self, path: str = "/v1/chat/completions", method: str = "POST", *, key: str | None = None, **body: Any
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, body and headers of an answer; the body is sent as JSON."""
        endpoint = self.published()
        host = endpoint.url.removeprefix("http://").partition("/")[0]
        connection = http.client.HTTPConnection(host, timeout=30)
        known = key if key is not None else rendezvous.read_key(endpoint.api_key_file)
        content = json.dumps({"model": "judge"} | body) if method == "POST" else None
        connection.request(method, f"/judge{path}", content, {"Authorization": f"Bearer {known}"})
        response = connection.getresponse()
        text = response.read().decode()
        headers = dict(response.getheaders())
        connection.close()
        return response.status, json.loads(text) if text.startswith("{") else text, headers

    def later(self, **body: Any) -> Future[tuple[int, Any, dict[str, str]]]:
        return self.pool.submit(self.request, **body)

    def close(self) -> None:
        self.gateway.kill()
        self.gateway.wait()
        for backend in self.backends:
            backend.close()
        self.pool.shutdown(cancel_futures=True)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway with one sound server, for tests that change neither."""
    made = Site(tmp_path_factory.mktemp("quiet"))
    made.add(0)
    yield made
    made.close()


def test_a_request_gets_the_backends_key_and_model_name(site: Site) -> None:
    backend = site.add(0)

    status, body, headers = site.request(messages=[{"role": "user", "content": "hi"}], max_tokens=5)

    assert (status, body) == (200, {"from": "0-0"})
    assert headers["X-Replica"] == "judge-0"
    assert backend.served == [{"model": "fake-0-0", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}]


def test_nothing_is_published_before_a_replica_has_answered(site: Site) -> None:
    wait_for(lambda: (site.run.control / "gateway.json").exists(), "the gateway")
    assert site.endpoint() is None

    site.add(0)

    endpoint = site.published()
    assert endpoint.model == "judge"
    assert endpoint.generation == GENERATION
    assert (site.run.endpoints / "judge.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("key", ["", "wrong", "ключ"])
def test_a_wrong_key_is_refused(quiet: Site, key: str) -> None:
    (backend,) = quiet.backends
    served = list(backend.served)
    if not key.isascii():
        key = key.encode().decode("latin-1")

    status, body, _ = quiet.request(key=key)

    assert status == 401
    assert body["error"]["message"].startswith("Wrong or missing key.")
    assert backend.served == served


def test_the_backends_own_key_opens_nothing(quiet: Site) -> None:
    assert quiet.request(key=quiet.backend_key)[0] == 401


@pytest.mark.parametrize(
    "path", ["/invocations", "/tokenize", "/v1/load_lora_adapter", "/collective_rpc", "/health/../tokenize"]
)
def test_paths_that_are_not_on_the_list_are_refused(quiet: Site, path: str) -> None:
    assert quiet.request(path)[0] == 404


def test_the_health_of_a_replica_can_be_asked(quiet: Site) -> None:
    assert quiet.request("/health", "GET")[0] == 200


def test_models_lists_the_stable_name(quiet: Site) -> None:
    status, body, _ = quiet.request("/v1/models", "GET")
    assert (status, [model["id"] for model in body["data"]]) == (200, ["judge"])


def test_metrics_come_with_the_gateways_own(site: Site) -> None:
    site.add(0)
    status, text, _ = site.request("/metrics", "GET")
    assert status == 200
    assert text == "vllm:running 1\ngateway_waiting 0\ngateway_retried_total 0\ngateway_replicas_up 1\n"


def test_another_models_name_is_refused(quiet: Site) -> None:
    status, body, _ = quiet.request(model="gpt-4")
    assert (status, body["error"]["message"]) == (404, "No model 'gpt-4' here. Ask for 'judge'.")


def test_an_unknown_service_is_named(quiet: Site) -> None:
    host = quiet.published().url.removeprefix("http://").partition("/")[0]
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("GET", "/jury/v1/models")
    assert b"No service 'jury' in this run. Known: judge." in connection.getresponse().read()
    connection.close()


def test_requests_go_to_the_replica_with_the_fewest_open_ones(site: Site) -> None:
    slow, fast = site.add(0), site.add(1)
    wait_for(lambda: site.request("/metrics", "GET")[1].endswith("replicas_up 2\n"), "both replicas")
    answered = threading.Event()
    slow.before_answer = answered.wait

    answers = [site.later() for _ in range(2)]
    wait_for(lambda: slow.served and fast.served, "one request at each")
    for _ in range(5):
        site.request()

    answered.set()

    assert (len(slow.served), len(fast.served)) == (1, 6)
    assert {answer.result()[0] for answer in answers} == {200}


def test_a_replica_that_dies_inside_a_request_is_latency_not_an_error(site: Site) -> None:
    dying = site.add(0)
    dying.before_answer = lambda: False
    answer = site.later()
    wait_for(lambda: dying.served, "the request")
    dying.close()

    site.add(1)

    assert answer.result()[:2] == (200, {"from": "1-1"})


def test_a_request_waits_for_the_restart_of_the_only_replica(tmp_path: Path) -> None:
    site = Site(tmp_path, replicas=1)
    try:
        first = site.add(0)
        site.published()
        first.close()
        (site.run.endpoints / "judge-0.json").unlink()
        wait_for(lambda: site.request("/health", "GET")[0] == 503, "the gateway to notice")
        answer = site.later()
        time.sleep(0.5)
        assert not answer.done()

        site.add(0)

        assert answer.result()[:2] == (200, {"from": "0-1"})
        assert site.endpoint() is not None
    finally:
        site.close()


def test_a_request_at_a_replaced_replica_is_sent_again(site: Site) -> None:
    hung = site.add(0)
    hung.delay_s = 5.0
    answer = site.later()
    wait_for(lambda: hung.served, "the request")
    asked = time.monotonic()

    site.add(0)

    assert answer.result()[:2] == (200, {"from": "0-1"})
    assert time.monotonic() - asked < 4.0


def test_a_server_that_answers_500_is_asked_again_and_then_believed(site: Site) -> None:
    failing = site.add(0)
    failing.status = 500
    answer = site.later()
    wait_for(lambda: failing.served, "the request")

    failing.status = 200

    assert answer.result()[:2] == (200, {"from": "0-0"})


def test_a_server_with_another_key_is_not_used(site: Site) -> None:
    wrong = site.add(0, key="another")
    right = site.add(1)

    answers = [site.request()[1] for _ in range(4)]

    assert answers == [{"from": "1-1"}] * 4
    assert (wrong.served, len(right.served)) == ([], 4)


def test_a_server_of_another_generation_is_not_used(site: Site) -> None:
    old = site.add(0, generation=GENERATION - 1)
    site.add(1)

    assert [site.request()[1] for _ in range(3)] == [{"from": "1-1"}] * 3
    assert old.served == []


def test_a_client_error_is_passed_on(site: Site) -> None:
    site.add(0).status = 400
    assert site.request()[0] == 400


def test_without_a_replica_a_request_is_told_when_to_come_back(tmp_path: Path) -> None:
    site = Site(tmp_path, replicas=1, start_timeout_s=0.5)
    try:
        gone = site.add(0)
        site.published()
        gone.close()
        (site.run.endpoints / "judge-0.json").unlink()
        wait_for(lambda: site.request("/health", "GET")[0] == 503, "the gateway to notice")

        status, body, headers = site.request()

        assert (status, headers["Retry-After"]) == (503, "10")
        assert body["error"]["message"] == "No replica of judge has answered for 0.5 s."
    finally:
        site.close()


def test_a_full_queue_refuses_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path, replicas=1)
    try:
        site.gateway.kill()
        site.gateway.wait()
        site.gateway = site.start("--queue-limit", "2")
        gone = site.add(0)
        site.published()
        gone.close()
        (site.run.endpoints / "judge-0.json").unlink()
        wait_for(lambda: site.request("/health", "GET")[0] == 503, "the gateway to notice")
        waiting = [site.later() for _ in range(2)]
        time.sleep(0.5)

        status, body, headers = site.request()

        assert (status, headers["Retry-After"]) == (503, "5")
        assert body["error"]["message"] == "2 requests wait already; that is the limit."
        site.add(0)
        assert [answer.result()[0] for answer in waiting] == [200, 200]
    finally:
        site.close()


def test_a_body_that_is_no_json_object_is_refused(site: Site) -> None:
    site.add(0)
    endpoint = site.published()
    host = endpoint.url.removeprefix("http://").partition("/")[0]
    for content in (b"no json", b"[1]", b"[" * 100_000):
        connection = http.client.HTTPConnection(host, timeout=30)
        headers = {"Authorization": f"Bearer {rendezvous.read_key(endpoint.api_key_file)}"}
        connection.request("POST", "/judge/v1/completions", content, headers)
        assert connection.getresponse().status == 400
        connection.close()


def test_a_service_elsewhere_is_asked_with_its_own_key_and_has_no_health_of_its_own(tmp_path: Path) -> None:
    site = Site(tmp_path, url="https://elsewhere/v1")
    try:
        (tmp_path / "api.key").write_text("the-users-key\n")
        backend = site.add(0, key="the-users-key", api_key_file=tmp_path / "api.key")
        backend.healthy = False

        assert site.request()[:2] == (200, {"from": "0-0"})
        assert site.request("/health", "GET")[0] == 200
    finally:
        site.close()


def test_a_gateway_that_is_told_to_stop_takes_its_endpoint_back(site: Site) -> None:
    site.add(0)
    site.published()

    site.gateway.send_signal(signal.SIGTERM)

    assert site.gateway.wait(10) == 0
    assert not (site.run.endpoints / "judge.json").exists()


def test_a_restarted_gateway_takes_the_same_port(site: Site) -> None:
    site.add(0)
    before = site.published()
    site.gateway.kill()
    site.gateway.wait()

    site.gateway = site.start()
    after = wait_for(lambda: (e := site.endpoint()) and e.nonce != before.nonce and e, "a new endpoint")

    assert after.url == before.url
    assert replace(after, nonce="", pid=0, lease_until=0.0) == replace(before, nonce="", pid=0, lease_until=0.0)


def test_a_taken_port_is_left_alone(tmp_path: Path) -> None:
    site = Site(tmp_path)
    try:
        site.add(0)
        before = site.published()
        site.gateway.kill()
        site.gateway.wait()
        port = int(before.url.split(":")[2].split("/")[0])
        with socket.socket() as squatter:
            squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            squatter.bind(("127.0.0.1", port))
            squatter.listen()

            site.gateway = site.start()
            after = wait_for(lambda: (e := site.endpoint()) and e.nonce != before.nonce and e, "a new endpoint")

        assert after.url != before.url
        assert site.request()[0] == 200
    finally:
        site.close()


def test_a_service_stays_published_while_it_reloads(site: Site) -> None:
    backend = site.add(0)
    site.published()
    backend.close()
    (site.run.endpoints / "judge-0.json").unlink()
    wait_for(lambda: site.request("/health", "GET")[0] == 503, "the gateway to notice")
    assert site.endpoint() is not None
