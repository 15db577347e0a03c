"""What a step reports of lengths, speed and the KL in the reward; and the learning rate of every step."""

from __future__ import annotations

import pytest

from jobs.data import Example
from jobs.grpo import batch
from jobs.grpo.groups import Collected, Group, Scored
from jobs.grpo.prompts import Cursor
from jobs.grpo.rollout import Sample
from jobs.grpo.settings import Settings
from jobs.grpo.trainer import learning_rate
from jobs.rewards.scorer import Score

LENGTHS = (3, 5)
PROMPT_TOKENS = 20


def settings(**changes: object) -> Settings:
    base = {"model": "m", "data": {"path": "p"}, "rewards": {"format": 1.0}, "samples_per_prompt": len(LENGTHS)}
    return Settings.model_validate(base | changes)


@pytest.fixture
def collected() -> Collected:
    scored = tuple(
        Scored(
            sample=Sample(
                group=0,
                sample=index,
                tokens=(1,) * length,
                logprobs=(-1.0,) * length,
                text="",
                finished=True,
                version=0,
                prompt_tokens=PROMPT_TOKENS,
            ),
            score=Score(parts={"format": float(index)}, total=float(index)),
        )
        for index, length in enumerate(LENGTHS)
    )
    group = Group(example=Example(id="a", problem="?", answer="1", images=()), prompt="?", scored=scored)
    return Collected(groups=(group,), cursor=Cursor())


def test_a_prompt_counts_as_often_as_it_is_answered(collected: Collected) -> None:
    metrics = batch.metrics(collected, batch.value(settings(), collected))

    assert batch.tokens(collected) == 2 * PROMPT_TOKENS + sum(LENGTHS)
    assert metrics["prompt_length/mean"] == PROMPT_TOKENS
    assert metrics["response_length/max"] == max(LENGTHS)


def test_a_kl_in_the_reward_is_reported_per_token(collected: Collected) -> None:
    kl = [[0.3, 0.5]]
    wanted = settings(algorithm={"kl_coefficient": 0.1, "kl_in": "reward"})

    valued = batch.value(wanted, collected, kl)

    assert batch.metrics(collected, valued, kl)["actor/reward_kl_penalty"] == pytest.approx(0.8 / sum(LENGTHS))
    assert valued[0].totals == pytest.approx((-0.03, 0.95))
    assert "actor/reward_kl_penalty" not in batch.metrics(collected, valued)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_learning_rate_grows_then_follows_its_schedule(schedule: str, expected: list[float]) -> None:
    wanted = settings(policy={"learning_rate": 1.0, "warmup_ratio": 2 / 6, "schedule": schedule})

    assert [learning_rate(wanted, step, 6) for step in range(1, 7)] == pytest.approx(expected, abs=1e-6)
