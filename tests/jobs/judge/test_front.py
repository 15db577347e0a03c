"""The front before a server that, like vLLM, leaves most of its paths open to everybody."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest

from jobs.judge.front import Front
from jobs.judge.server import Server


class Open(BaseHTTPRequestHandler):
    """Answers everything, and keeps what reached it."""

    asked: list[tuple[str, str]]
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length).decode()
        self.asked.append((f"{self.command} {self.path}", self.headers.get("Authorization", "")))
        if self.path == "/v1/completions":
            self.close_connection = True
            return
        reply = json.dumps({"echo": body}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    do_GET = do_POST = do_PUT = answer

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass


class Behind:
    """A server on a unix socket and the front before it."""

    def __init__(self, folder: Path, *, listening: bool = True) -> None:
        self.asked: list[tuple[str, str]] = []
        self.broken: list[BaseException] = []
        uds = str(folder / "s")
        handler = type("Handler", (Open,), {"asked": self.asked})
        self.server = ThreadingUnixStreamServer(uds, handler) if listening else None
        if self.server is not None:
            self.server.daemon_threads = True
            threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        made = Server(engine="vllm", argv=[], environment={}, uds=uds, port=0, model="m", lists_models=True)
        self.front = Front(made, key="right", host="127.0.0.1", failed=self.broken.append)
        assert self.broken == []

    def ask(self, path: str, method: str = "GET", key: str = "right", body: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.front.port, timeout=10)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {key}"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def close(self) -> None:
        self.front.close()
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Behind]:
    made = Behind(tmp_path)
    yield made
    made.close()


def test_a_question_is_passed_on_with_the_servers_key(behind: Behind) -> None:
    status, body = behind.ask("/v1/chat/completions", "POST", body='{"model": "m"}')

    assert (status, json.loads(body)) == (200, {"echo": '{"model": "m"}'})
    assert behind.asked == [("POST /v1/chat/completions", "Bearer right")]


@pytest.mark.parametrize(
    "path",
    [
        "/pause",
        "/resume",
        "/update_weights",
        "/init_weight_transfer_engine",
        "/scale_elastic_ep",
        "/collective_rpc",
        "/tokenize",
        "/invocations",
        "/pooling",
        "/classify",
        "/score",
        "/rerank",
        "/version",
        "/load",
        "/v1/load_lora_adapter",
        "/health/../pause",
        "//pause",
        "/v1/models/..%2f..%2fpause",
        "/%70ause",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_the_server_leaves_open_is_closed(behind: Behind, path: str, method: str) -> None:
    assert behind.ask(path, method, body="{}")[0] == 404
    assert behind.asked == []


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/models", "/v1/chat/completions"])
@pytest.mark.parametrize("key", ["", "wrong"])
def test_nothing_is_answered_without_the_key(behind: Behind, path: str, key: str) -> None:
    assert behind.ask(path, key=key)[0] == 401
    assert behind.asked == []


def test_another_method_is_refused(behind: Behind) -> None:
    assert behind.ask("/v1/models", "PUT")[0] == 405
    assert behind.asked == []


def test_a_server_that_does_not_listen_yet_gives_no_answer(tmp_path: Path) -> None:
    behind = Behind(tmp_path, listening=False)
    try:
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            behind.ask("/health")
    finally:
        behind.close()
    assert behind.broken == []


def test_a_server_that_dies_inside_a_request_gives_no_answer(behind: Behind) -> None:
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        behind.ask("/v1/completions", "POST", body="{}")

    assert behind.ask("/health")[0] == 200


def test_a_closed_front_does_not_listen(tmp_path: Path) -> None:
    behind = Behind(tmp_path)
    began = time.monotonic()

    behind.close()

    assert time.monotonic() - began < 5
    with pytest.raises(ConnectionRefusedError):
        behind.ask("/health")
    assert behind.broken == []
