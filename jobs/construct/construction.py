"""The loop: problems side by side, each through the pipeline, until all are settled or the job has to end.

A few hundred problems are under way at once; what is asked of a server is bounded by its endpoint. Told to stop,
the loop sends nothing more and waits for the answers that are on their way, as they are paid for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from eval.answer_checker import AnswerChecker
from jobs.construct.budget import Spent
from jobs.construct.endpoint import Client, Stop, Stopped, Unanswered
from jobs.construct.log import Log
from jobs.construct.pipeline import Asking, Checking, Kept, Lost, Pipeline
from jobs.construct.request import Request, Stage
from jobs.data import Example
from jobs.entry import Drain
from jobs.fence import Fence
from orchestrator.errors import OrchestratorError
from orchestrator.progress import Progress

TICK_S = 0.2
CHECK_EVERY_S = 1.0
LEAST_DRAIN_S = 1.0


@dataclass(kw_only=True)
class Outcome:
    """What one attempt came to.

    Attributes:
        settled: Every problem that is through, by its position in the data.
        unanswered: Problems that wait for an answer that no attempt at the server brought, and why.
        spent: Stages whose budget is used up.
        drained: The job was asked to stop before all was settled.
        error: What else ended it early.
    """

    settled: dict[int, Kept | Lost] = field(default_factory=dict)
    unanswered: dict[int, tuple[Stage, str]] = field(default_factory=dict)
    spent: set[Stage] = field(default_factory=set)
    drained: bool = False
    error: OrchestratorError | None = None

    def count(self) -> tuple[int, int]:
        """Return how many problems are kept and how many are lost."""
        kept = sum(isinstance(state, Kept) for state in self.settled.values())
        return kept, len(self.settled) - kept


@dataclass(frozen=True, kw_only=True)
class Construction:
    """Everything that the loop uses.

    Attributes:
        pipeline: What to ask.
        examples: The problems.
        clients: Whom to ask, by stage.
        log: What is known.
        checker: Compares answers.
        stop: The clients' wish to send nothing more.
        fence: Whether a newer attempt has begun.
        commit: Tells the ledger, now and then, that answers have been added.
        progress: Where to say how far it is.
        eta: Say in the message when it will be done, for those who watch no ``status``.
    """

    pipeline: Pipeline
    examples: Sequence[Example]
    clients: dict[Stage, Client]
    log: Log
    checker: AnswerChecker
    stop: Stop
    fence: Fence
    commit: Callable[[], None]
    progress: Progress
    eta: bool = False

    async def run(self, drain: Drain, *, drain_s: float) -> Outcome:
        """Work until all is settled, or the job has to end; then wait for what is on its way, at most ``drain_s``."""
        outcome = Outcome()
        left = self._left(outcome)
        meter = _Meter(total=len(left), began=time.monotonic())
        queue = iter(left)
        width = 2 * max(client.width for client in self.clients.values())
        workers = [asyncio.ensure_future(self._work(queue, outcome)) for _ in range(min(width, len(left)))]
        try:
            await self._watch(workers, outcome, drain, meter)
            await self._end(workers, max(LEAST_DRAIN_S, drain_s))
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        self._report(outcome, meter)
        outcome.drained = drain.requested and len(outcome.settled) + len(outcome.unanswered) < len(self.examples)
        return outcome

    def _left(self, outcome: Outcome) -> list[int]:
        """Settle what the log alone settles; return the positions of the other problems."""
        left = []
        for position, example in enumerate(self.examples):
            if position % 100 == 0:
                self.progress.update("reading the log", position, len(self.examples), unit="problems")
            state = self.pipeline.state(example, self.log)
            if isinstance(state, Kept | Lost):
                outcome.settled[position] = state
            else:
                left.append(position)
        return left

    async def _watch(
        self, workers: Sequence[asyncio.Future[None]], outcome: Outcome, drain: Drain, meter: _Meter
    ) -> None:
        """Return when all workers have ended, or nothing more is to be sent."""
        checked_at = time.monotonic()
        while not self.stop.asked and not all(worker.done() for worker in workers):
            await asyncio.wait(workers, timeout=TICK_S, return_when=asyncio.ALL_COMPLETED)
            if drain.requested:
                self.stop.event.set()
            if time.monotonic() - checked_at >= CHECK_EVERY_S:
                checked_at = time.monotonic()
                self.fence.check()
                self.commit()
            self._report(outcome, meter)

    async def _end(self, workers: Sequence[asyncio.Future[None]], drain_s: float) -> None:
        """Wait for answers on their way; raise what a worker did not expect."""
        until = time.monotonic() + drain_s
        while (waiting := [worker for worker in workers if not worker.done()]) and time.monotonic() < until:
            on_their_way = sum(client.running for client in self.clients.values())
            waited_s = drain_s - (until - time.monotonic())
            self.progress.waiting(f"{on_their_way} answers on their way", waited_s=waited_s, until_s=drain_s)
            await asyncio.wait(waiting, timeout=TICK_S)
        for worker in workers:
            if worker.done():
                worker.result()

    async def _work(self, queue: Iterator[int], outcome: Outcome) -> None:
        for position in queue:
            if self.stop.asked:
                return
            try:
                outcome.settled[position] = await self._settle(self.examples[position])
            except Stopped:
                return
            except _Gone as error:
                outcome.unanswered[position] = (error.stage, error.why)
            except _Broke as error:
                outcome.spent.add(error.stage)
            except OrchestratorError as error:
                outcome.error = outcome.error or error
                self.stop.event.set()
                return

    async def _settle(self, example: Example) -> Kept | Lost:
        while True:
            state = self.pipeline.state(example, self.log)
            if isinstance(state, Kept | Lost):
                return state
            if isinstance(state, Checking):
                correct = await self.checker.check(state.trajectory, example.answer)
                await self.log.check(state.key, example.answer, None if correct is None else bool(correct))
            else:
                await self._ask(state)

    async def _ask(self, state: Asking) -> None:
        """Have all requests answered; the first failure is raised when the others have ended."""
        ended = await asyncio.gather(*map(self._ask_one, state.requests), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def _ask_one(self, request: Request) -> None:
        try:
            await self.clients[request.stage].ask(request)
        except Spent:
            raise _Broke(request.stage) from None
        except Unanswered as error:
            raise _Gone(request.stage, str(error)) from None

    def _report(self, outcome: Outcome, meter: _Meter) -> None:
        kept, lost = outcome.count()
        done = meter.total - (len(self.examples) - len(outcome.settled)) + len(outcome.unanswered)
        words = [f"{kept} kept", f"{lost} lost"]
        if outcome.unanswered:
            words.append(f"{len(outcome.unanswered)} unanswered")
        words += [f"{stage} {client.says()}" for stage, client in self.clients.items()]
        left_s = meter.left_s(done)
        if self.eta and left_s is not None:
            words.append(f"done in {_clock(left_s)}")
        self.progress.update("constructing", done, meter.total, unit="problems", message=", ".join(words))


class _Gone(Exception):
    """A problem waits for an answer that did not come."""

    def __init__(self, stage: Stage, why: str) -> None:
        super().__init__(stage, why)
        self.stage = stage
        self.why = why


class _Broke(Exception):
    """A problem waits for tokens."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.stage = stage


@dataclass(frozen=True, kw_only=True)
class _Meter:
    """How fast this attempt goes."""

    total: int
    began: float

    def left_s(self, done: int) -> float | None:
        spent_s = time.monotonic() - self.began
        return spent_s / done * (self.total - done) if 0 < done < self.total else None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
