"""The judge's client: from facts and a response to a verdict, or to the reason why there is none.

One verdict takes: a look into the cache; a look whether the same question is already on its way; a
place (``admission``); a request with a deadline, sent twice if that is wanted and it takes long
(``hedge``); a strict reading of the reply; another attempt if that failed. While the judge is down
everybody waits (``breaker``), which costs no attempt.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import aiohttp

from eval import facts
from jobs.rewards import chat, hedge, image_prompt, judge_prompt, verdict_cache
from jobs.rewards.admission import Admission
from jobs.rewards.breaker import Breaker, JudgeOutage
from jobs.rewards.judge_stats import Deadline, Stats
from jobs.rewards.question import Question
from jobs.rewards.settings import VisualPerception
from jobs.rewards.verdict import Verdict
from orchestrator import plan, rendezvous
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory

__all__ = ["JudgeClient", "JudgeOutage"]

BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 5.0
# The same question at temperature 0 has the same answer, so an unreadable one is asked for again warmer.
WARMER = 0.5

_Failure = chat.Unreachable | chat.Busy | chat.Failed


@dataclass(kw_only=True)
class _Effort:
    """What one verdict has cost so far.

    Attributes:
        attempts: Requests that the judge took.
        detours: Requests that met no judge, or a busy one.
        unreadable: Replies that were no verdict.
        spent_s: Seconds in failed requests and pauses; neither standing in line nor an outage counts.
        final: Asking again would not help.
        why: Why the last request brought no verdict.
        reply: The last reply that was no verdict.
    """

    attempts: int = 0
    detours: int = 0
    unreadable: int = 0
    spent_s: float = 0.0
    final: bool = False
    why: str = ""
    reply: str = ""

    def is_over(self, settings: VisualPerception) -> bool:
        return self.final or self.attempts >= settings.attempts or self.spent_s >= settings.verdict_s


class JudgeClient:
    """Asks one judge. Belongs to the event loop in which it was made.

    Args:
        settings: How to ask.
        run: The run whose endpoints to look up.
        role: The role that asks; verdicts are kept in its folder.
        generation: The attempt; an endpoint of another one is not trusted.
        progress: Where to say that the judge is waited for.
        faithful: Send the response as it is and read the reply as the published code does.
    """

    def __init__(
        self,
        settings: VisualPerception,
        *,
        run: RunDirectory,
        role: str,
        generation: int,
        progress: Progress | None = None,
        faithful: bool = False,
    ) -> None:
        self._settings = settings
        self._run = run
        self._generation = generation
        self._faithful = faithful
        self._stats = Stats()
        self._deadline = Deadline(min_s=settings.deadline_min_s, max_s=settings.deadline_max_s)
        self._admission = Admission(most=settings.max_in_flight)
        self._breaker = Breaker(
            who=settings.judge, probe=self._probe, budget_s=settings.outage_budget_s, progress=progress
        )
        self._cache = verdict_cache.VerdictCache(run.role(role) / "verdicts.jsonl")
        self._under_way: dict[str, asyncio.Task[Verdict]] = {}
        self._address: chat.Address | None = None
        self._identity: str | None = None
        # The admission is the limit, not the pool.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._open_s_taken = 0.0

    async def judge(self, visual_key_info: str | None, response: str) -> Verdict | None:
        """Return the verdict on one response, or None if there is no fact to ask about.

        Raises:
            JudgeOutage: The judge has not answered for longer than the outage budget.
        """
        asked = facts.numbered(visual_key_info)
        if not visual_key_info or not asked:
            self._skip()
            return None
        messages = judge_prompt.messages(
            visual_key_info, response, self._settings.template, neutralise=not self._faithful
        )
        return await self._judge(Question(messages=messages, asked=tuple(asked)))

    async def judge_by_image(self, images: tuple[bytes, ...], response: str) -> Verdict | None:
        """Return the verdict of a judge that sees the images, or None if there is none to see.

        Raises:
            JudgeOutage: The judge has not answered for longer than the outage budget.
        """
        if not images:
            self._skip()
            return None
        neutralise = not self._faithful
        return await self._judge(
            image_prompt.question(images, response, self._settings.template, neutralise=neutralise)
        )

    def _skip(self) -> None:
        self._stats.count("rows")
        self._stats.count("skipped")

    async def _judge(self, question: Question) -> Verdict:
        self._stats.count("rows")
        verdict = await self._answer(question)
        self._stats.count("verdicts")
        self._stats.count("missing", bool(verdict.missing))
        self._stats.count("cached", verdict.cached)
        self._stats.count("mismatched", verdict.mismatch)
        return verdict

    def metrics(self) -> dict[str, float]:
        """Return the judge's metrics since the last call."""
        open_s = self._breaker.open_s
        since, self._open_s_taken = open_s - self._open_s_taken, open_s
        return self._stats.take() | {
            "judge/inflight": float(self._admission.take_most()),
            "judge/inflight_limit": float(int(self._admission.limit)),
            "judge/deadline_s": self._deadline.now_s(),
            "judge/breaker_open_s": since,
        }

    async def close(self) -> None:
        """Give up what is under way and close connections and files."""
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        await self._breaker.close()
        await self._session.close()
        self._cache.close()

    async def __aenter__(self) -> JudgeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _answer(self, question: Question) -> Verdict:
        options = self._options() | {"faithful": self._faithful}
        name = verdict_cache.key(messages=question.identity(), model=await self._model(), options=options)
        record = self._cache.get(name)
        if record is not None:
            return self._recalled(record, question.asked)
        task = self._under_way.get(name)
        if task is not None:
            return replace(await asyncio.shield(task), cached=True)
        task = asyncio.get_running_loop().create_task(self._find_out(name, question))
        self._under_way[name] = task
        task.add_done_callback(lambda _: self._under_way.pop(name, None))
        return await asyncio.shield(task)

    def _recalled(self, record: dict[str, Any], asked: tuple[int, ...]) -> Verdict:
        reading = facts.read(record["reply"], asked, faithful=self._faithful)
        # Only verdicts are kept, and ``faithful`` is part of their key.
        assert reading is not None
        return _verdict(reading, chat.Reply(text=record["reply"], **record["costs"]), attempts=0, cached=True)

    async def _find_out(self, name: str, question: Question) -> Verdict:
        effort = _Effort()
        while True:
            reply = await self._try(question, effort)
            reading = facts.read(reply.text, question.asked, faithful=self._faithful) if reply else None
            if reply and reading:
                costs = {key: value for key, value in asdict(reply).items() if key != "text"}
                self._cache.put(name, {"reply": reply.text or "", "costs": costs})
                return _verdict(reading, reply, attempts=effort.attempts, cached=False)
            if reply:
                effort.unreadable += 1
                effort.reply = reply.text or ""
                effort.why = "the reply is no verdict"
            if effort.is_over(self._settings):
                return Verdict(missing=effort.why, reply=effort.reply, attempts=effort.attempts)

    async def _try(self, question: Question, effort: _Effort) -> chat.Reply | None:
        """Ask once. Return the reply, or note why there is none and wait until it makes sense to ask again."""
        async with self._admission:
            # Inside, as the judge may have gone down while this one stood in line.
            await self._breaker.passed()
            sent_at = time.monotonic()
            try:
                reply = await self._send(question, effort)
            except (chat.Unreachable, chat.Busy, chat.Failed) as error:
                failure = error
                effort.spent_s += time.monotonic() - sent_at
            else:
                effort.attempts += 1
                return reply
        await self._recover(failure, effort, sent_at)
        return None

    async def _recover(self, failure: _Failure, effort: _Effort, sent_at: float) -> None:
        effort.why = str(failure)
        if isinstance(failure, chat.Unreachable | chat.Busy | chat.Slow):
            self._admission.full()
        if isinstance(failure, chat.Refused):
            effort.attempts += 1
            effort.final = True
        elif isinstance(failure, chat.Busy):
            effort.detours += 1
            await self._pause(min(failure.retry_after_s, self._settings.retry_after_max_s), effort)
        elif isinstance(failure, chat.Unreachable):
            effort.detours += 1
            if not await self._breaker.is_down(effort.why):
                await self._pause(_backoff_s(effort), effort)
        elif await self._breaker.is_down(effort.why, sent_at=sent_at):
            effort.detours += 1
        else:
            effort.attempts += 1
            await self._pause(_backoff_s(effort), effort)

    async def _pause(self, seconds: float, effort: _Effort) -> None:
        if not effort.is_over(self._settings):
            effort.spent_s += seconds
            await asyncio.sleep(seconds)

    async def _send(self, question: Question, effort: _Effort) -> chat.Reply:
        body = {"messages": question.body(), **self._options(), "seed": self._settings.seed + effort.unreadable}
        if effort.unreadable:
            body["temperature"] = WARMER
        self._stats.count("requests")
        self._stats.count("retries", effort.attempts + effort.detours > 0)
        deadline_s = self._deadline.now_s()
        try:
            reply = await self._ask(body, deadline_s)
        except chat.Slow:
            self._deadline.observe(deadline_s)
            raise
        self._note(reply)
        return reply

    async def _ask(self, body: dict[str, Any], deadline_s: float) -> chat.Reply:
        ask = partial(chat.ask, self._session, self._address_of_judge(), body)
        after_s = self._deadline.p95_s() if self._settings.hedge else None
        if after_s is None or after_s >= deadline_s:
            return await ask(deadline_s)
        place = partial(self._second_place, time.monotonic())
        return await hedge.first_answer(ask, deadline_s=deadline_s, after_s=after_s, place=place)

    @contextmanager
    def _second_place(self, sent_at: float) -> Iterator[bool]:
        """Let a request be sent again, unless the judge is full, or has answered nobody since the first time."""
        if not self._breaker.has_answered_since(sent_at):
            yield False
            return
        with self._admission.if_free() as is_free:
            self._stats.count("hedged", is_free)
            yield is_free

    def _note(self, reply: chat.Reply) -> None:
        self._breaker.answered()
        self._admission.answered()
        self._deadline.observe(reply.latency_s)
        self._stats.latency(reply.latency_s)
        self._stats.count("tokens_in", reply.tokens_in)
        self._stats.count("tokens_out", reply.tokens_out)

    async def _probe(self) -> str:
        """Ask something small, as a real answer is the only proof of life. Return why there is none."""
        self._forget_address()
        body = {"messages": [{"role": "user", "content": "1"}], "max_tokens": 1, "temperature": 0}
        try:
            await chat.ask(self._session, self._address_of_judge(), body, self._deadline.now_s())
        except chat.Busy:
            return ""
        except (chat.Unreachable, chat.Failed) as error:
            return str(error)
        return ""

    def _address_of_judge(self) -> chat.Address:
        if self._address is None:
            endpoint = rendezvous.lookup(self._run, self._settings.judge, generation=self._generation)
            if endpoint is None:
                raise chat.Unreachable("no endpoint is published")
            key = rendezvous.read_key(endpoint.api_key_file)
            self._address = chat.Address(url=endpoint.url, model=endpoint.model, key=key)
        return self._address

    def _forget_address(self) -> None:
        """Read the endpoint's file again before the next request: a restarted judge has a new one."""
        self._address = None

    def _options(self) -> dict[str, Any]:
        return {"max_tokens": self._settings.max_reply_tokens, "temperature": 0, "seed": self._settings.seed}

    async def _model(self) -> str:
        """Return what identifies the judge's weights.

        The name it is served by says nothing about them, so it is used only where no plan says what is
        served.
        """
        while self._identity is None:
            try:
                self._identity = self._planned_model() or self._address_of_judge().model
            except chat.Unreachable as error:
                await self._breaker.is_down(str(error))
        return self._identity

    def _planned_model(self) -> str:
        roles = plan.load(self._run.plan).roles if self._run.plan.exists() else ()
        role = next((role for role in roles if role.name == self._settings.judge), None)
        if role is None:
            return ""
        values = rendezvous.published_values(self._run, (*role.needs, *role.after), generation=self._generation)
        return json.dumps([role.job, rendezvous.fill(role.settings, values)], sort_keys=True)


def _verdict(reading: facts.Reading, reply: chat.Reply, *, attempts: int, cached: bool) -> Verdict:
    return Verdict(
        value=reading.reward,
        scores=reading.scores,
        mismatch=reading.mismatch,
        reply=reply.text or "",
        latency_s=reply.latency_s,
        attempts=attempts,
        cached=cached,
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
    )


def _backoff_s(effort: _Effort) -> float:
    tries = effort.attempts + effort.detours
    return min(LONGEST_BACKOFF_S, BACKOFF_S * 2.0 ** min(tries, 10)) * random.uniform(0.5, 1.0)
