"""The whole job: from settings to files, and what it ends with."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path

from eval.answer_checker import AnswerChecker
from jobs import data
from jobs.construct import result
from jobs.construct.construction import Construction, Outcome
from jobs.construct.endpoint import Client, Place, Stop, read_key
from jobs.construct.log import Log
from jobs.construct.pipeline import Kept, Pipeline
from jobs.construct.request import STAGES, Stage
from jobs.construct.settings import PLACES, Endpoint, Settings
from jobs.data import Example
from jobs.entry import DRAINED, Context, Drain
from jobs.fence import Fence
from orchestrator import rendezvous
from orchestrator.errors import InputError, OrchestratorError, Problem, RunFailed, all_at_once

ROLE_DRAIN_S = 60.0
# Of the time that a role is given to end: for the files, after the last answer.
FOR_FILES_S = 10.0
COMMIT_EVERY_S = 60.0


class BudgetSpent(OrchestratorError):
    """A budget of tokens is used up; nothing is lost. The code is that of wrong settings: no restart mends it."""

    exit_code = InputError.exit_code


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all commands of this job begin with.

    Attributes:
        settings: The job's.
        examples: The problems.
        pipeline: What to ask of whom.
        files: Where results go.
        log: Where requests and responses are kept.
    """

    settings: Settings
    examples: list[Example]
    pipeline: Pipeline
    files: result.Files
    log: Path


def prepare(context: Context, settings: Settings) -> Work:
    """Read the problems and find out what the models are.

    Raises:
        InputError: Keys, data or models cannot be used.
        NotFound: There is no data.
    """
    for endpoint in settings.endpoints().values():
        if endpoint.api_key_file:
            read_key(endpoint.api_key_file)
    context.progress.update("reading the problems", message=settings.data.path)
    examples = data.read(settings.data)
    _check(examples, settings.data.path)
    endpoints = settings.endpoints()
    models = {stage: _model(context, stage, endpoints[stage]) for stage in STAGES if stage in endpoints}
    folder = context.run.role(context.role) if context.plan else context.run.path
    return Work(
        settings=settings,
        examples=examples,
        pipeline=Pipeline(settings=settings, models=models),
        files=result.Files(folder),
        log=Path(settings.responses).expanduser() if settings.responses else folder / "responses.jsonl",
    )


def build(context: Context, settings: Settings, drain: Drain) -> int:
    """Build the data, publish it, and return the exit code.

    Raises:
        BudgetSpent: A budget is used up.
        JudgeOutage: A server was away for too long.
        RunFailed: Too many problems have no answer, or no problem could be annotated.
        ConflictError: Another process uses the log, or a newer attempt has begun.
    """
    with answer_checker(settings) as checker:
        return build_with(checker, context, settings, drain)


def build_with(checker: AnswerChecker, context: Context, settings: Settings, drain: Drain) -> int:
    """Do the same with processes for comparing answers that are there already."""
    work = prepare(context, settings)
    with Log(work.log) as log:
        _check_exported(log)
        commits = Commits(context, log)
        outcome = asyncio.run(_construct(context, work, log, checker, drain, commits))
        result.write_all(work.files, work.examples, outcome, log, work.pipeline)
        commits.now()
    return _end(context, work, outcome)


def answer_checker(settings: Settings) -> AnswerChecker:
    """Return what compares answers, as the accuracy reward does; its processes start when they are needed."""
    return AnswerChecker(processes=settings.answer_processes, timeout_s=settings.answer_timeout_s)


def _end(context: Context, work: Work, outcome: Outcome) -> int:
    if outcome.error is not None:
        raise outcome.error
    if outcome.drained:
        return DRAINED
    if outcome.spent and work.settings.when_spent == "stop":
        raise BudgetSpent(_spent(work, outcome))
    kept = [state for _, state in sorted(outcome.settled.items()) if isinstance(state, Kept)]
    _check_outcome(work, outcome, len(kept))
    result.write_data(work.files.data, kept, work.pipeline)
    rendezvous.publish_outputs(
        context.run,
        context.role,
        {
            "data": str(work.files.data),
            "failures": str(work.files.failures),
            "summary": str(work.files.summary),
            "rows": str(len(kept)),
        },
    )
    context.progress.update("done", message=f"{len(kept)} of {len(work.examples)} problems in {work.files.data}")
    return 0


class Commits:
    """Tells the ledger of answers on disk, so that an attempt that got some counts as one with progress."""

    def __init__(self, context: Context, log: Log) -> None:
        self._context = context
        self._log = log
        self._told = log.answers
        self._told_at = time.monotonic()

    def now_and_then(self) -> None:
        """Tell it if that was long ago."""
        if time.monotonic() - self._told_at >= COMMIT_EVERY_S:
            self.now()

    def now(self) -> None:
        """Tell it if there is anything new."""
        self._told_at = time.monotonic()
        if self._log.answers > self._told:
            self._told = self._log.answers
            self._context.ledger.append("work_committed", role=self._context.role, answers=self._told)


async def _construct(
    context: Context, work: Work, log: Log, checker: AnswerChecker, drain: Drain, commits: Commits
) -> Outcome:
    stop = Stop(asyncio.Event())
    place = Place(run=context.run, generation=context.generation, progress=context.progress)
    endpoints = work.settings.endpoints()
    clients: dict[Stage, Client] = {
        stage: Client(stage, endpoints[stage], log, place, stop) for stage in work.pipeline.models
    }
    construction = Construction(
        pipeline=work.pipeline,
        examples=work.examples,
        clients=clients,
        log=log,
        checker=checker,
        stop=stop,
        fence=Fence(context.run.ledger, context.generation),
        commit=commits.now_and_then,
        progress=context.progress,
        eta=context.plan is None,
    )
    drain_s = context.plan.role(context.role).drain_s if context.plan else ROLE_DRAIN_S
    try:
        return await construction.run(drain, drain_s=drain_s - FOR_FILES_S)
    finally:
        for client in clients.values():
            await client.close()


def _model(context: Context, stage: Stage, endpoint: Endpoint) -> str:
    """Return what identifies the model of an endpoint; the name a service serves it by is new at every start."""
    if endpoint.service is None:
        return endpoint.model or ""
    place = f"{PLACES[stage]}.service"
    if context.plan is None:
        raise InputError(
            f"{place}: {endpoint.service!r} is a role, and a job started by hand has none. Write url and model."
        )
    role = next((role for role in context.plan.roles if role.name == endpoint.service), None)
    if role is None or "model" not in role.settings:
        raise InputError(f"{place}: The recipe has no role {endpoint.service!r} with a model. Correct the name.")
    values = rendezvous.published_values(context.run, (*role.needs, *role.after), generation=context.generation)
    return str(rendezvous.fill(role.settings["model"], values))


def _check(examples: list[Example], path: str) -> None:
    """Raise if answers cannot be compared by ``eval.answers``; all are listed."""
    problems = [
        Problem(
            place=f"row {position}", fact=f"Its kind is {example.kind!r}; only 'math' has trajectories to be right."
        )
        for position, example in enumerate(examples)
        if example.kind != "math"
    ]
    if problems:
        raise all_at_once(path, problems)


def _check_exported(log: Log) -> None:
    waiting = log.exported()
    if waiting:
        files = ", ".join(sorted(set(waiting.values())))
        raise InputError(
            f"{log.path}: {len(waiting)} requests stand in batch files whose results were not read: {files}. "
            "Read them with 'batch-read', or give them up with 'batch-withdraw'."
        )


def _check_outcome(work: Work, outcome: Outcome, kept: int) -> None:
    share = len(outcome.unanswered) / len(work.examples)
    if share > work.settings.unanswered_max:
        stage, why = next(iter(outcome.unanswered.values()))
        raise RunFailed(
            f"{len(outcome.unanswered)} of {len(work.examples)} problems have no answer of {PLACES[stage]!r} ({why}), "
            f"more than unanswered_max={work.settings.unanswered_max:g}. They are listed in {work.files.failures}; "
            "the next start asks for these again, and for nothing else."
        )
    if not kept:
        reasons = json.loads(work.files.summary.read_text(encoding="utf-8"))["lost_because"]
        first = next(iter(reasons), "nothing was asked")
        raise RunFailed(
            f"No problem of {len(work.examples)} could be annotated; most often: {first}. See {work.files.failures}."
        )


def _spent(work: Work, outcome: Outcome) -> str:
    endpoints = work.settings.endpoints()
    named = ", ".join(
        f"{PLACES[stage]}.budget_tokens={endpoints[stage].budget_tokens}" for stage in sorted(outcome.spent)
    )
    left = len(work.examples) - len(outcome.settled) - len(outcome.unanswered)
    kept, _ = outcome.count()
    return (
        f"budget: {named} is used up; {kept} problems are annotated, {left} are left. Nothing is lost: start again "
        f"with a larger budget and responses: {work.log}, or with when_spent: finish to have what there is."
    )
