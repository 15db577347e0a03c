"""Runs the program of a ``command`` role in the role's place: same output, same signals, same exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from jobs import entry
from jobs.command.settings import Settings
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.rendezvous import publish_outputs

REPORT_EVERY_S = 2.0


def main(arguments: list[str] | None = None) -> int:
    """Run the program and return its exit code.

    A program that ends by the SIGTERM we passed on has stopped as it was asked to; that counts as
    drained, so that a resumed run starts it again. One killed by another signal has failed: 128 + signal.
    """
    try:
        context, settings = entry.start("command", Settings, arguments)
        drain = entry.Drain().listen()
        program = _started(settings)
    except OrchestratorError as error:
        return entry.exit_with(error)
    code = _wait(program, context, drain)
    if code == 0:
        publish_outputs(context.run, context.role, settings.outputs)
    if code == -signal.SIGTERM and drain.requested:
        return entry.DRAINED
    return code if code >= 0 else 128 - code


def _started(settings: Settings) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(settings.argv, env=os.environ | settings.environment, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise InputError(f"argv: {settings.argv[0]!r} cannot be started: {error.strerror}.") from None


def _wait(program: subprocess.Popen[bytes], context: entry.Context, drain: entry.Drain) -> int:
    """Wait for the program without a deadline: how long it may take, only its author knows."""
    began = time.monotonic()
    told = False
    while True:
        # Once a signal has been passed on, there is nothing left to look for but the end.
        try:
            return program.wait(timeout=0.1 if not told else REPORT_EVERY_S)
        except subprocess.TimeoutExpired:
            phase = "stopping" if drain.requested else "running"
            context.progress.update(phase, round(time.monotonic() - began), unit="s", message=str(program.args[0]))  # type: ignore[index]
        if drain.requested and not told:
            program.send_signal(signal.SIGTERM)
            told = True


if __name__ == "__main__":
    sys.exit(main())
