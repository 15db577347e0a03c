"""A question that is asked a second time, because its answer takes longer than nearly all others did."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from jobs.rewards.judge_client import JudgeClient
from jobs.rewards.judge_stats import ENOUGH
from jobs.rewards.settings import VisualPerception
from jobs.rewards.verdict import Verdict
from orchestrator.run_directory import RunDirectory
from tests.jobs.rewards.fake_judge import FakeJudge, Step, hangs, says, status

FACT = "<info1>AB is 5</info1>"
FIRST, SECOND = "<info1>0.1</info1>", "<info1>0.2</info1>"
USUAL_S = 0.2
"""What answers take at first, and so when a later question is asked again: ample for an answer that comes at once."""
LATE_S = 3 * USUAL_S


class Judge(FakeJudge):
    """Answers each question by what it has been told about it, in order, and any other at once."""

    def __init__(self, run: RunDirectory, probe: Step | None = None) -> None:
        super().__init__(run, self._by_question, probe=probe)
        self.told: dict[str, list[Step]] = {}
        self.others: Step = says(FIRST, after_s=USUAL_S)
        self.asked: dict[str, list[web.Request]] = {}

    async def _by_question(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = body["messages"][1]["content"].split("\nResponse:\n", 1)[1]
        self.asked.setdefault(response, []).append(request)
        steps = self.told.get(response)
        return await (steps.pop(0) if steps else self.others)(request, body)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.create()
    return directory


@asynccontextmanager
async def used_to(
    run: RunDirectory, probe: Step | None = None, **settings: Any
) -> AsyncIterator[tuple[Judge, JudgeClient]]:
    """Give a judge, and a client that knows how long its answers take: ``USUAL_S``, for others no time from now on."""
    given = VisualPerception.model_validate({"weight": 1.0, "hedge": True, "attempts": 1, **settings})
    async with Judge(run, probe) as judge, JudgeClient(given, run=run, role="train", generation=1) as client:
        await asyncio.gather(*(client.judge(FACT, f"before {number}") for number in range(ENOUGH)))
        client.metrics()
        judge.others = says(FIRST)
        yield judge, client


async def verdicts(client: JudgeClient, *responses: str) -> list[Verdict]:
    found = await asyncio.gather(*(client.judge(FACT, response) for response in responses))
    return [verdict for verdict in found if verdict is not None]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param((hangs(), says(SECOND)), 0.2, id="the second"),
        pytest.param((says(FIRST, after_s=LATE_S), hangs()), 0.1, id="the first after all"),
        pytest.param((says(FIRST, after_s=LATE_S), status(500)), 0.1, id="the second fails"),
        pytest.param((says(FIRST, after_s=LATE_S), status(429)), 0.1, id="the second finds a busy judge"),
    ],
)
def test_the_first_answer_of_two_counts_and_costs_one_attempt(
    run: RunDirectory, steps: tuple[Step, ...], expected: float
) -> None:
    async def main() -> tuple[Verdict, int, dict[str, float]]:
        async with used_to(run) as (judge, client):
            judge.told["slow"] = list(steps)
            slow, *_ = await verdicts(client, "slow", "quick")
            return slow, len(judge.asked["slow"]), client.metrics()

    verdict, asked, metrics = asyncio.run(main())

    assert (verdict.scores, verdict.attempts) == ((expected,), 1)
    assert verdict.latency_s > USUAL_S
    assert asked == 2
    assert (metrics["judge/requests"], metrics["judge/hedged_frac"], metrics["judge/retry_frac"]) == (2.0, 0.5, 0.0)


def test_the_request_that_lost_is_cancelled_and_its_place_is_free(run: RunDirectory) -> None:
    async def main() -> float:
        async with used_to(run) as (judge, client):
            judge.told["slow"] = [hangs(), says(SECOND)]
            await verdicts(client, "slow", "quick")
            lost, _ = judge.asked["slow"]
            async with asyncio.timeout(10):
                while lost.transport is not None and not lost.transport.is_closing():
                    await asyncio.sleep(0.01)
            client.metrics()  # forgets how many there were
            return client.metrics()["judge/inflight"]

    assert asyncio.run(main()) == 0.0


def test_if_both_fail_the_first_ones_failure_is_told(run: RunDirectory) -> None:
    async def fails_late(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(LATE_S)
        return await status(500)(request, body)

    async def main() -> Verdict:
        async with used_to(run) as (judge, client):
            judge.told["slow"] = [fails_late, status(400)]
            slow, *_ = await verdicts(client, "slow", "quick")
            return slow

    verdict = asyncio.run(main())

    assert verdict.missing.startswith("status 500")
    assert verdict.attempts == 1


def test_nothing_is_asked_twice_unless_it_is_wanted(run: RunDirectory) -> None:
    async def main() -> int:
        async with used_to(run, hedge=False) as (judge, client):
            judge.told["slow"] = [says(FIRST, after_s=LATE_S)]
            await verdicts(client, "slow", "quick")
            return len(judge.asked["slow"])

    assert asyncio.run(main()) == 1


def test_a_full_judge_is_not_asked_twice(run: RunDirectory) -> None:
    async def main() -> tuple[int, float]:
        async with used_to(run, max_in_flight=ENOUGH) as (judge, client):
            late = ["slow", *(f"beside {number}" for number in range(ENOUGH - 1))]
            judge.told = {response: [says(FIRST, after_s=LATE_S)] for response in late}
            # "quick" is answered at once, so the judge is up; then the last of the others has its place.
            await verdicts(client, "quick", *late)
            return len(judge.asked["slow"]), client.metrics()["judge/hedged_frac"]

    assert asyncio.run(main()) == (1, 0.0)


def test_a_judge_that_answers_nobody_is_not_asked_twice(run: RunDirectory) -> None:
    async def main() -> tuple[list[Verdict], int]:
        async with used_to(run, probe=says("1"), deadline_min_s=LATE_S, deadline_max_s=1.0) as (judge, client):
            judge.others = hangs()
            missing = await verdicts(client, *(f"response {number}" for number in range(5)))
            return missing, sum(len(judge.asked[f"response {number}"]) for number in range(5))

    missing, asked = asyncio.run(main())

    assert [math.isnan(verdict.value) for verdict in missing] == [True] * 5
    assert asked == 5
