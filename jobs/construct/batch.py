"""The same requests as files, for batch APIs, which cost less, and for ``vllm run-batch``, which needs no server.

    python -m jobs.construct batch-write --stage distil distil.jsonl --settings construct.yaml --out out/
    vllm run-batch -i distil.jsonl -o results.jsonl --model MODEL
    python -m jobs.construct batch-read results.jsonl --settings construct.yaml --out out/

Then the next stage, or the job itself, which asks only for what is missing. In a run, ``--run-dir DIR --role NAME``
stand in place of the last two options. A request's ``custom_id`` is its key. While results of a batch file are
awaited, the job does not start, or it would pay twice; ``batch-withdraw`` gives them up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.answer_checker import AnswerChecker
from jobs import entry
from jobs.construct.completion import parsed
from jobs.construct.job import Work, answer_checker, prepare
from jobs.construct.log import Log
from jobs.construct.pipeline import Asking, Checking
from jobs.construct.request import STAGES, Request, Stage
from jobs.construct.settings import Settings
from jobs.rewards import chat
from orchestrator.errors import InputError, NotFound
from orchestrator.files import write_text

URL = "/v1/chat/completions"
PART_MB = 190.0
PART_REQUESTS = 50_000
COMMANDS = ("batch-write", "batch-read", "batch-withdraw")


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands."""
    given, rest = parsed_arguments(arguments)
    context, settings = entry.start("construct", Settings, rest)
    with answer_checker(settings) as checker:
        context.progress.update(given.command, message=run(given, checker, context, settings))
    return 0


def run(given: argparse.Namespace, checker: AnswerChecker, context: entry.Context, settings: Settings) -> str:
    """Do what a command says, and return what was done, in a sentence."""
    work = prepare(context, settings)
    with Log(work.log) as log:
        if given.command == "batch-withdraw":
            return withdraw(log, given.file)
        requests = asyncio.run(pending(work, log, checker))
        if given.command == "batch-read":
            return read(requests, log, given.file)
        return write(requests, log, given.stage, given.file, part_mb=given.part_mb)


def parsed_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return a command with its own options, and what is left for every job's."""
    parser = argparse.ArgumentParser(prog="python -m jobs.construct", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("file", type=Path, help="the batch file to write, the results to read, the file to give up")
    parser.add_argument("--stage", choices=STAGES, help="which requests to write")
    parser.add_argument("--part-mb", type=float, default=PART_MB, help="begin a further file beyond this size")
    given, rest = parser.parse_known_args(arguments)
    if given.command == "batch-write" and given.stage is None:
        parser.error("batch-write needs --stage")
    return given, rest


def write(requests: Sequence[Request], log: Log, stage: Stage, file: Path, *, part_mb: float = PART_MB) -> str:
    """Write those of a stage that stand in no batch file yet; return what was done, in a sentence.

    Raises:
        InputError: There are none, or the file exists.
    """
    if file.exists():
        raise InputError(f"{file}: The file exists. Its requests may be on their way; name another.")
    waiting = log.exported()
    wanted = [one for one in requests if one.stage == stage and one.key not in waiting]
    if not wanted:
        raise InputError(f"{file}: No request of stage {stage!r} can be asked now. {_whats_next(requests)}")
    parts = [file]
    lines: list[str] = []
    size = 0
    for request in wanted:
        line = json.dumps(_line(request)) + "\n"
        if lines and (size + len(line) > part_mb * 1e6 or len(lines) >= PART_REQUESTS):
            _finish(parts[-1], lines)
            parts.append(file.with_name(f"{file.stem}-{len(parts) + 1}{file.suffix}"))
            lines, size = [], 0
        lines.append(line)
        size += len(line)
        log.export(request, str(parts[-1].absolute()))
    _finish(parts[-1], lines)
    log.sync()
    return f"{len(wanted)} requests of stage {stage} in {', '.join(map(str, parts))}"


def read(requests: Sequence[Request], log: Log, file: Path) -> str:
    """Take the results of a batch into the log; return what was done, in a sentence.

    A result that is an error of the request's own (status 4xx) is final; any other error leaves its request to be
    asked again. A result of none of ``requests`` is left out and counted.

    Raises:
        NotFound: There is no such file.
        InputError: A line is not JSON.
    """
    known = {request.key: request for request in requests}
    counts: Counter[str] = Counter()
    for result in _results(file):
        request = known.pop(str(result.get("custom_id")), None)
        counts[_take(log, request, result)] += 1
    log.sync()
    return f"{file}: " + (", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "no results")


def withdraw(log: Log, file: Path) -> str:
    """Give up the results of a batch file; return what was done, in a sentence."""
    mine = [key for key, exported in log.exported().items() if exported == str(file.absolute())]
    for key in mine:
        log.withdraw(key)
    log.sync()
    return f"{file}: {len(mine)} requests are given up and will be asked again"


async def pending(work: Work, log: Log, checker: AnswerChecker) -> list[Request]:
    """Return every request that can be asked now, in the order of the problems. Compares answers where needed."""
    found: list[Request] = []
    for example in work.examples:
        state = work.pipeline.state(example, log)
        while isinstance(state, Checking):
            correct = await checker.check(state.trajectory, example.answer)
            await log.check(state.key, example.answer, None if correct is None else bool(correct))
            state = work.pipeline.state(example, log)
        if isinstance(state, Asking):
            found += state.requests
    return found


def _line(request: Request) -> dict[str, Any]:
    return {"custom_id": request.key, "method": "POST", "url": URL, "body": request.body(request.model)}


def _finish(file: Path, lines: Sequence[str]) -> None:
    write_text(file, "".join(lines))


def _whats_next(requests: Sequence[Request]) -> str:
    if not requests:
        return "All problems are settled: start the job, which writes the data."
    waiting = Counter(request.stage for request in requests)
    return "Waiting: " + ", ".join(f"{count} of {stage}" for stage, count in waiting.items()) + "."


def _results(file: Path) -> Iterator[dict[str, Any]]:
    if not file.is_file():
        raise NotFound(f"{file}: no such file of results.")
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                result = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{file}:{number}: Not JSON: {error}.") from None
            if not isinstance(result, dict):
                raise InputError(f"{file}:{number}: A line is one JSON object, got {line[:40]!r}.")
            yield result


def _take(log: Log, request: Request | None, result: dict[str, Any]) -> str:
    """Keep one result, and return what became of it."""
    if request is None:
        return "not ours or known already"
    response = result.get("response") or {}
    status = response.get("status_code")
    body = json.dumps(response.get("body")).encode()
    if status == 200 and not result.get("error"):
        try:
            log.keep_now(request, parsed(body, 0.0))
        except chat.Failed:
            return _again(log, request)
        return "answers"
    if isinstance(status, int) and 400 <= status < 500 and status not in (401, 403, 404, 408, 429):
        log.refuse_now(request, f"status {status}: {body.decode()[:300]}")
        return "refused"
    return _again(log, request)


def _again(log: Log, request: Request) -> str:
    log.withdraw(request.key)
    return "failed and to be asked again"
