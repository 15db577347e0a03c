"""What a recipe may say about rewards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from jobs.grpo.settings import Settings as GrpoSettings
from jobs.rewards.settings import Rewards

CHECKOUT = Path(__file__).parents[3]


def test_the_shipped_recipe_has_the_published_weights() -> None:
    recipe = yaml.safe_load((CHECKOUT / "recipes/geo3k.yaml").read_text())
    rewards = Rewards.model_validate(recipe["roles"]["train"]["with"]["rewards"])

    assert rewards.weights() == {"accuracy": 0.9, "format": 0.1, "visual_perception": 0.7, "repetition": 1.0}
    assert rewards.repetition is not None
    assert (rewards.repetition.ngram, rewards.repetition.max_penalty) == (20, -2.0)
    assert rewards.visual_perception is not None
    assert rewards.visual_perception.judge == "judge"
    assert not rewards.faithful


def test_a_number_is_a_weight() -> None:
    assert Rewards.model_validate({"accuracy": 1}) == Rewards.model_validate({"accuracy": {"weight": 1.0}})


def test_a_function_of_ones_own_stands_beside_the_others() -> None:
    rewards = Rewards.model_validate({"format": 0.1, "my.rewards:brevity": 0.2, "other:f": {"weight": -1}})

    assert rewards.weights() == {"format": 0.1, "my.rewards:brevity": 0.2, "other:f": -1.0}
    assert Rewards.model_validate(rewards.model_dump()) == rewards


def test_null_takes_a_reward_out_of_an_extended_recipe() -> None:
    assert Rewards.model_validate({"accuracy": 1, "visual_perception": None}).weights() == {"accuracy": 1.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(
            {"acuracy": 1, "beauty": 2},
            "There is no reward 'acuracy'. Did you mean 'accuracy'? Rewards are accuracy, format, visual_perception, "
            "repetition, thinking, grounding, grounding_format, counting, ocr, detection; a function of your own is "
            "written 'package.module:function'. There is no reward 'beauty'.",
            id="unknown names",
        ),
        pytest.param({"accuracy": {}}, "Field required", id="no weight"),
        pytest.param({"accuracy": True}, "valid dictionary", id="a truth value"),
        pytest.param({"accuracy": {"weight": 1, "wieght": 1}}, "Extra inputs", id="unknown setting"),
        pytest.param({"accuracy": float("nan")}, "finite number", id="nan"),
        pytest.param({"repetition": {"weight": 1, "ngram": 0}}, "greater than or equal to 1", id="no words"),
        pytest.param({"repetition": {"weight": 1, "max_penalty": 2}}, "less than or equal to 0", id="a prize"),
        pytest.param(
            {"visual_perception": {"weight": 1, "template": "short"}}, "'perception_r1' or 'compact'", id="template"
        ),
        pytest.param(
            {"visual_perception": {"weight": 1, "deadline_min_s": 90}},
            "deadline_min_s=90 exceeds deadline_max_s=60. Raise the second or lower the first.",
            id="deadlines out of order",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        Rewards.model_validate(given)

    assert message in str(error.value)


def test_checking_settings_loads_nothing_heavy() -> None:
    program = (
        "import sys, jobs.rewards.settings\n"
        "heavy = {'torch', 'ray', 'numpy', 'openai', 'aiohttp', 'math_verify', 'sympy', 'vllm'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)

    assert done.stdout == "\n"


@pytest.mark.parametrize("rewards", [{"grounding_format": 1.0}, {"counting": {"weight": 1.0, "gate": True}}])
def test_rewards_that_read_special_tokens_need_them_in_the_text(rewards: dict[str, object]) -> None:
    given = {"model": "m", "data": {"path": "p"}, "rewards": rewards}

    with pytest.raises(ValueError, match=r"keep_special_tokens: rewards\.\w+(\.gate)? looks for tokens"):
        GrpoSettings.model_validate(given)
    GrpoSettings.model_validate(given | {"engine": {"keep_special_tokens": True}})
