"""The health gate of a service that runs elsewhere: asks its URL, and publishes it as long as it answers.

    python -m orchestrator.allocation.external --run-dir runs/geo3k --role judge

Nothing is started and nothing of the service is ended: for the gateway and all roles it is a replica
like any other. An outage is not an error of ours; the endpoint's lease runs out, and the gate
goes on asking.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from types import FrameType
from typing import Any

from orchestrator import plan, rendezvous
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.plan import Role
from orchestrator.progress import Progress
from orchestrator.rendezvous import Endpoint
from orchestrator.run_directory import RunDirectory

LEASE_S = 30.0
CHECK_EVERY_S = 5.0
ANSWER_S = 10.0
TICK_S = 0.1
REFUSED = (401, 403)
LARGEST_ANSWER = 4 << 20


@dataclass(frozen=True)
class Answer:
    """What the service said when it was asked for its models.

    Attributes:
        models: Their names; None if it gave no such list.
        why_not: Why there is no list, in a few words.
        refused: It does not accept our key.
    """

    models: tuple[str, ...] | None
    why_not: str = ""
    refused: bool = False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Our key goes to the host that the recipe names and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


def ask(url: str, key: str) -> Answer:
    """Return which models the service at ``url`` lists.

    Args:
        url: Base URL of the OpenAI API, ending in ``/v1``.
        key: Sent along; nothing is if it is empty.
    """
    request = urllib.request.Request(f"{url}/models", headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with OPENER.open(request, timeout=ANSWER_S) as response:
            listed = json.loads(response.read(LARGEST_ANSWER))
        return Answer(tuple(str(model["id"]) for model in listed["data"]))
    except urllib.error.HTTPError as error:
        return Answer(None, f"it answers with status {error.code}", refused=error.code in REFUSED)
    except (OSError, HTTPException) as error:
        return Answer(None, str(getattr(error, "reason", error)) or type(error).__name__)
    except (ValueError, KeyError, TypeError):
        return Answer(None, "its answer is no list of models")


def gate(run: RunDirectory, role: Role, generation: int, stopped: Callable[[], bool]) -> None:
    """Publish the service whenever it answers, until told to stop.

    Raises:
        InputError: It refuses our key or does not have our model, or the key's file cannot be read.
        ConflictError: A newer attempt of the run has begun.
    """
    written = str(role.settings.get("api_key_file", ""))
    key_file = str(Path(written).expanduser().absolute()) if written else ""
    key = _key(role, key_file)
    progress = Progress(run.progress, role.name)
    nonce = secrets.token_hex(8)
    name = f"{role.name}-{os.environ.get('ORCH_REPLICA', '0')}"
    asked_at, answered_at = float("-inf"), time.monotonic()
    try:
        while not stopped():
            if time.monotonic() - asked_at >= CHECK_EVERY_S:
                asked_at = time.monotonic()
                model, why_not = _check(role, key)
                if model:
                    answered_at = time.monotonic()
                    rendezvous.publish(run, _endpoint(role, name, model, key_file, generation, nonce))
                    progress.update("serving", message=f"{model} at {role.url}")
                else:
                    waited_s = time.monotonic() - answered_at
                    progress.waiting(f"{role.url}: {why_not}", waited_s=waited_s, until_s=role.start_timeout_s)
            time.sleep(TICK_S)
    finally:
        rendezvous.withdraw(run, name, nonce)


def _check(role: Role, key: str) -> tuple[str, str]:
    """Return the model to ask for, or nothing and why the service is not usable now."""
    answer = ask(role.url, key)
    if answer.refused:
        raise InputError(f"roles.{role.name}.url: {role.url} refuses us: {answer.why_not}. Correct with.api_key_file.")
    return ("", answer.why_not) if answer.models is None else (_model(role, answer.models), "")


def _key(role: Role, file: str) -> str:
    if not file:
        return ""
    try:
        return rendezvous.read_key(file)
    except OSError as error:
        raise InputError(f"roles.{role.name}.with.api_key_file: {file} cannot be read: {error.strerror}.") from None


def _model(role: Role, served: tuple[str, ...]) -> str:
    wanted = str(role.settings["model"])
    if wanted not in served:
        shown = ", ".join(served[:10]) or "none"
        raise InputError(
            f"roles.{role.name}.with.model: {role.url} does not serve {wanted!r}. It has: {shown}. Name one of them."
        )
    return wanted


def _endpoint(role: Role, name: str, model: str, key_file: str, generation: int, nonce: str) -> Endpoint:
    return Endpoint(
        name=name,
        url=role.url,
        model=model,
        api_key_file=key_file,
        generation=generation,
        nonce=nonce,
        pid=os.getpid(),
        host=socket.gethostname(),
        lease_until=time.time() + LEASE_S,
    )


def main(arguments: list[str] | None = None) -> int:
    """Gate one external service of a run."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.allocation.external")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--role", required=True)
    given = parser.parse_args(arguments)
    asked: list[int] = []

    def record(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, record)
    run = RunDirectory(given.run_dir.absolute())
    role = plan.load(run.plan).role(given.role)
    try:
        gate(run, role, int(os.environ.get("ORCH_GENERATION", "1")), lambda: bool(asked))
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
