"""The sum of all rewards."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.rewards.part import Example
from jobs.rewards.scorer import Score, Scorer, means
from jobs.rewards.settings import Rewards
from orchestrator.errors import InputError
from orchestrator.run_directory import RunDirectory
from tests.jobs.rewards.fake_judge import FakeJudge, says, status

RIGHT = "<think>\nAB is 5.\n</think>\n<answer>\n\\boxed{5}\n</answer>"


@dataclass(frozen=True, kw_only=True)
class Problem:
    answer: str = "5"
    visual_key_info: str | None = None


def short(_example: Example, response: str) -> float:
    return 1.0 / (1 + len(response))


async def later(example: Example, _response: str) -> float | None:
    return None if example.visual_key_info is None else 1.0


def talkative(_example: Example, _response: str) -> str:
    return "very good"


def score(rewards: dict[str, Any], problem: Problem, response: str) -> Score:
    async def main() -> Score:
        async with Scorer(Rewards.model_validate(rewards)) as scorer:
            return await scorer.score(problem, response)

    return asyncio.run(main())


def test_the_total_is_the_weighted_sum() -> None:
    result = score({"accuracy": 0.9, "format": 0.1}, Problem(), RIGHT)

    assert result.parts == {"accuracy": 1.0, "format": 1.0}
    assert result.total == pytest.approx(1.0)


def test_the_total_is_not_clipped() -> None:
    rewards = {"format": 10, "repetition": {"weight": 10, "ngram": 1, "max_penalty": -2}}

    assert score(rewards, Problem(), "a a a a").total == -15.0


def test_a_missing_part_makes_the_total_missing() -> None:
    result = score({"format": 1, f"{__name__}:later": 1}, Problem(), RIGHT)

    assert result.parts["format"] == 1.0
    assert math.isnan(result.total)


def test_a_missing_part_without_weight_does_not() -> None:
    assert score({"format": 1, f"{__name__}:later": 0}, Problem(), RIGHT).total == 1.0


@pytest.mark.slow
def test_a_comparison_that_hangs_is_missing_and_counted() -> None:
    async def main() -> tuple[Score, Score, dict[str, float]]:
        async with Scorer(Rewards.model_validate({"accuracy": {"weight": 1, "timeout_s": 1.5}})) as scorer:
            hanging = await scorer.score(Problem(), "\\boxed{9^{9^{9^{9}}}}")
            return hanging, await scorer.score(Problem(), RIGHT), scorer.metrics()

    hanging, right, metrics = asyncio.run(main())

    assert math.isnan(hanging.total)
    assert right.total == 1.0
    assert metrics == {"accuracy/unchecked": 1.0}


def test_a_function_of_ones_own_sees_problem_and_response() -> None:
    result = score({f"{__name__}:short": 1, f"{__name__}:later": 2}, Problem(visual_key_info="x"), "abc")

    assert result.total == 2.25


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("no_such_module:f", "The module 'no_such_module' cannot be imported", id="no module"),
        pytest.param(f"{__name__}:nothing", "has no function 'nothing'", id="no function"),
        pytest.param(f"{__name__}:talkative", "It returned 'very good'. Return a number", id="no number"),
    ],
)
def test_a_function_of_ones_own_that_cannot_be_used_is_named(name: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^rewards.{name}: .*{message}"):
        score({name: 1}, Problem(), "abc")


def test_a_judge_is_asked_within_a_run_only() -> None:
    with pytest.raises(InputError, match=r"^rewards\.visual_perception: It needs the run"):
        score({"visual_perception": 1}, Problem(), "abc")


def test_a_failed_judge_leaves_the_part_missing_and_says_why(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create()

    async def main() -> Score:
        rewards = Rewards.model_validate({"format": 1, "visual_perception": 0.7})
        async with FakeJudge(run, status(400)), Scorer(rewards, run=run) as scorer:
            return await scorer.score(Problem(visual_key_info="<info1>x</info1>"), RIGHT)

    result = asyncio.run(main())

    assert math.isnan(result.parts["visual_perception"])
    assert math.isnan(result.total)
    assert result.judge is not None
    assert result.judge.missing.startswith("status 400")


def test_rewards_are_asked_side_by_side(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create()

    async def main() -> float:
        rewards = Rewards.model_validate({"visual_perception": {"weight": 1}})
        async with FakeJudge(run, says("<info1>1</info1>", after_s=0.3)), Scorer(rewards, run=run) as scorer:
            problem = Problem(visual_key_info="<info1>x</info1>")
            started = asyncio.get_running_loop().time()
            await asyncio.gather(*(scorer.score(problem, f"response {number}") for number in range(20)))
            return asyncio.get_running_loop().time() - started

    assert asyncio.run(main()) < 20 * 0.3 / 2


def test_means_leave_out_missing_values_and_rows_without_the_part() -> None:
    scores = [
        Score(parts={"accuracy": 1.0, "visual_perception": 0.5}, total=1.5),
        Score(parts={"accuracy": 0.0, "visual_perception": math.nan}, total=math.nan),
        Score(parts={"accuracy": 0.5, "visual_perception": 0.0}, total=0.5, left_out=("visual_perception",)),
    ]

    assert means(scores) == {"accuracy": 0.5, "visual_perception": 0.5, "total": 1.0}


def test_the_mean_of_values_that_are_all_missing_is_missing() -> None:
    assert math.isnan(means([Score(parts={}, total=math.nan)])["total"])


def test_the_mean_of_a_part_that_no_row_has_is_zero() -> None:
    row = Score(parts={"visual_perception": 0.0}, total=0.0, left_out=("visual_perception",))

    assert means([row])["visual_perception"] == 0.0
