"""Whether a server answers: asked as its clients will, through the front, with their key and model name.

A port that accepts connections says nothing: the kernel accepts for a stopped process too, and
another user's server may have taken the port.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import OrchestratorError

SHORT_S = 10.0
FIRST_ANSWER_S = 120.0
"""The first answer may have to compile kernels."""
SHOWN = 300


class WrongServer(OrchestratorError):
    """Something answers on our port that refuses our key or our model's name, or serves it badly."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Asks one server.

    Attributes:
        host: Where the front listens.
        port: Likewise.
        model: The model's name in requests.
        lists_models: Whether ``/v1/models`` tells what is served.
        key: What clients present.
    """

    host: str
    port: int
    model: str
    lists_models: bool
    key: str

    def healthy(self, timeout_s: float = SHORT_S) -> bool:
        """Return whether ``/health`` says so within the time."""
        return self._ask("GET", "/health", None, timeout_s)[0] == 200

    def ready(self) -> bool:
        """Return whether the server knows key and model and has answered one real request.

        False as long as nothing listens.

        Raises:
            WrongServer: It listens, and will never answer us.
        """
        if not self._lists_our_model():
            return False
        status, body = self._ask("POST", "/v1/chat/completions", self._smallest_request(), FIRST_ANSWER_S)
        if status is None or status == 503:
            return False
        if status != 200 or not _has_a_choice(body):
            raise WrongServer(
                f"{self.host}:{self.port}: the first chat completion was answered with status {status}: "
                f"{body[:SHOWN]!r}. The model may lack a chat template."
            )
        return True

    def _lists_our_model(self) -> bool:
        if not self.lists_models:
            return self.healthy()
        status, body = self._ask("GET", "/v1/models", None, SHORT_S)
        if status is None or status == 503:
            return False
        if status != 200 or self.model not in body:
            raise WrongServer(
                f"{self.host}:{self.port}: /v1/models answers with status {status} and does not list "
                f"{self.model!r}. Another program has taken the server's port; a restart takes a new one."
            )
        return True

    def _smallest_request(self) -> dict[str, Any]:
        messages = [{"role": "user", "content": "Say yes."}]
        return {"model": self.model, "messages": messages, "max_tokens": 1, "temperature": 0}

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float) -> tuple[int | None, str]:
        """Return status and text of the answer; a status of None means that there was none."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", errors="replace")
        except (OSError, http.client.HTTPException):
            return None, ""
        finally:
            connection.close()


def _has_a_choice(body: str) -> bool:
    try:
        answer = json.loads(body)
    except json.JSONDecodeError:
        return False
    return isinstance(answer, dict) and bool(answer.get("choices"))
