"""A server of the OpenAI API in a thread, with the faults that the gateway has to live with."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Backend:
    """Answers chat completions with its own name, after ``before_answer``.

    Attributes:
        served: The bodies it was asked with, in order.
        healthy: What ``/health`` says.
        before_answer: Called with the handler before an answer; returns False to close the connection.
        status: The status of its answers.
        answer: The body of its answers.
    """

    def __init__(self, *, model: str, key: str, name: str = "backend", host: str = "127.0.0.1") -> None:
        self.model = model
        self.key = key
        self.name = name
        self.served: list[dict[str, Any]] = []
        self.healthy = True
        self.delay_s = 0.0
        self.status = 200
        self.answer: dict[str, Any] = {"from": name}
        self.before_answer: Callable[[], bool] = lambda: True
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/health":
                    self.reply(200 if backend.healthy else 503, b"")
                elif self.path == "/metrics":
                    self.reply(200, b"vllm:running 1\n")
                elif self.path == "/v1/models":
                    known = self.headers["Authorization"] == f"Bearer {backend.key}"
                    self.reply(200 if known else 401, json.dumps({"data": [{"id": backend.model}]}).encode())
                else:
                    self.reply(200, b"open to all")

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.headers["Authorization"] != f"Bearer {backend.key}":
                    return self.reply(401, b"{}")
                if body["model"] != backend.model:
                    return self.reply(404, b"{}")
                backend.served.append(body)
                time.sleep(backend.delay_s)
                if not backend.before_answer():
                    self.close_connection = True
                    return None
                return self.reply(backend.status, json.dumps(backend.answer).encode())

            def reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
