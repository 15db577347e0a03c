"""The rewards that ask nobody: what a recipe says reaches them, and no text and no truth stops them."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from eval.target import Space, Target
from jobs.data import Example
from jobs.rewards import registry
from jobs.rewards.part import Part, Surroundings
from jobs.rewards.settings import BUILT_IN, Rewards
from tests.eval import garbage

SPACE = Space(system="pixel", width_px=500, height_px=200)
DOG = Target(space=SPACE, boxes=((50, 20, 250, 60),), labels=("dog",))
TWO = Target(space=SPACE, points=((50, 20), (250, 60)))
BOUNDS = {
    "accuracy": (0.0, 1.0),
    "format": (0.0, 1.0),
    "repetition": (-2.0, 0.0),
    "thinking": (0.0, 1.0),
    "grounding": (0.0, 1.0),
    "grounding_format": (0.0, 1.0),
    "counting": (0.0, 1.0),
    "ocr": (0.0, 1.0),
    "detection": (0.0, 3.0),
}
LIGHT = {name: bounds for name, bounds in BOUNDS.items() if name != "accuracy"}


def example(answer: str = "", target: Target | None = None) -> Example:
    return Example(id="1", problem="", answer=answer, images=(), target=target)


def part(name: str, response: str, of: Example, *, faithful: bool = False, **said: Any) -> Part:
    """Return what one reward says, with these settings."""

    async def main() -> Part:
        rewards = Rewards.model_validate({name: {"weight": 1.0, **said}})
        reward = registry.build(rewards, Surroundings(faithful=faithful))[name]
        found = await reward(of, response)
        await reward.close()
        return found

    return asyncio.run(main())


def value(name: str, response: str, of: Example, *, faithful: bool = False, **said: Any) -> float:
    return part(name, response, of, faithful=faithful, **said).value


def test_every_reward_has_settings_and_a_class() -> None:
    assert set(registry.REWARDS) == set(BUILT_IN) == set(Rewards.model_fields) - {"own", "faithful"}
    assert {*BOUNDS, "visual_perception"} == set(BUILT_IN)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param({}, 0.25, id="squared, as published"),
        pytest.param({"power": 1}, 0.5, id="the overlap itself"),
        pytest.param({"coordinates": "pixel"}, 0.0, id="other units"),
    ],
)
def test_grounding_says_power_and_units(said: dict[str, Any], expected: float) -> None:
    assert value("grounding", "[100, 100, 300, 300]", example(target=DOG), **said) == pytest.approx(expected)


def test_the_published_grounding_reads_numbers_without_the_token_as_shares() -> None:
    assert value("grounding", "[0.1, 0.1, 0.5, 0.3]", example(target=DOG), faithful=True) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("response", "said", "expected"),
    [
        pytest.param("(100, 100); (500, 300)", {}, 1.0, id="thousandths"),
        pytest.param("(50, 20); (250, 60)", {"coordinates": "pixel"}, 1.0, id="pixels"),
        pytest.param("(100, 100), (500, 300)", {"writes": "points"}, 1.0, id="points in a row"),
        pytest.param(
            "(100, 100), (500, 300)", {}, 0.5 * (1 - math.hypot(200, 100) / math.hypot(1000, 1000)), id="a box"
        ),
        pytest.param("(100, 100); (500, 300)", {"gate": True}, 0.0, id="gate"),
        pytest.param(
            "(500, 300); (100, 100)",
            {"matching": "in_order"},
            1 - math.hypot(400, 200) / math.hypot(1000, 1000),
            id="no matching",
        ),
    ],
)
def test_counting_says_units_gate_and_matching(response: str, said: dict[str, Any], expected: float) -> None:
    assert value("counting", response, example(target=TWO), **said) == pytest.approx(expected)


def test_detection_says_units_names_and_scales() -> None:
    box = {"bbox_2d": [100, 100, 500, 300], "label": "poodle"}
    poodle = example(target=Target(space=SPACE, boxes=DOG.boxes, labels=("poodle",)))
    response = json.dumps([box])

    assert value("detection", response, poodle, coordinates="rel1000") == 0.0
    assert value("detection", response, poodle, coordinates="rel1000", classes=["poodle"]) == pytest.approx(3.0)
    assert value(
        "detection", response, poodle, coordinates="rel1000", classes=["poodle"], format_scale=0, label_scale=2.5
    ) == pytest.approx(0.75 + 2.5 + 1)


def test_detection_says_the_penalty() -> None:
    truth = example(target=Target(space=SPACE, boxes=(*DOG.boxes, (300, 0, 400, 100)), labels=("dog", "cat")))
    response = '[{"bbox_2d": [50, 20, 250, 60], "label": "dog"}]'

    assert value("detection", response, truth) - value("detection", response, truth, penalty_scale=0.5) == 0.25


@pytest.mark.parametrize("name", ["grounding", "counting", "detection"])
def test_a_problem_without_a_truth_in_numbers_stays_out_of_the_mean(name: str) -> None:
    assert part(name, "[1, 2, 3, 4]", example("5")) == Part(value=0.0, counted=False)


def test_a_page_without_text_stays_out_of_the_mean() -> None:
    assert part("ocr", "", example(" \n")) == Part(value=0.0, counted=False)
    assert part("ocr", "a", example("a")) == Part(value=1.0)


def test_what_is_read_of_a_page_is_the_answer() -> None:
    response = "<think>a page</think><answer>hello</answer><|im_end|>"

    assert value("ocr", response, example("hello")) == 1.0
    assert value("ocr", response, example("hello"), faithful=True) < 0.2


def test_thinking_is_a_reward() -> None:
    assert value("thinking", "<think>a\nb</think><answer>5</answer>", example()) == 1.0
    assert value("thinking", "<think>a\nb</think><answer>5</answer>", example(), faithful=True) == 0.0


def test_means_of_the_parts_are_metrics_until_they_are_taken() -> None:
    async def main() -> list[dict[str, float]]:
        rewards = Rewards.model_validate({"detection": 1, "counting": 1})
        found = registry.build(rewards, Surroundings())
        await found["detection"](example(target=DOG), '[{"bbox_2d": [50, 20, 250, 60], "label": "dog"}]')
        await found["detection"](example(target=DOG), "[]")
        await found["counting"](example(target=TWO), "(100, 100)")
        await found["counting"](example(target=TWO), "none")
        return [reward.metrics() for reward in found.values()] + [found["detection"].metrics()]

    counting, detection, after = asyncio.run(main())

    assert detection == {
        "detection/format": 1.0,
        "detection/f1": 0.5,
        "detection/label": 0.5,
        "detection/iou": 0.5,
        "detection/superfluous": 0.0,
        "detection/missed": 0.5,
    }
    assert counting == {"counting/exact": 0.0, "counting/error": 1.0}
    assert after == {}


@pytest.mark.parametrize(
    "said",
    [
        {"grounding": {"weight": 1, "coordinates": "percent"}},
        {"grounding": {"weight": 1, "power": 3}},
        {"counting": {"weight": 1, "matching": "greedy"}},
        {"detection": {"weight": 1, "penalty_scale": -1}},
        {"detection": {"weight": 1, "iou_above": 1}},
    ],
)
def test_what_makes_no_sense_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Rewards.model_validate(said)


@settings(deadline=None)
@given(
    response=garbage.texts,
    answer=garbage.texts,
    truth=st.none() | garbage.targets(),
    coordinates=st.sampled_from(["pixel", "rel1000", "rel1"]),
)
def test_any_response_to_any_problem_is_within_bounds(
    response: str, answer: str, truth: Target | None, coordinates: str
) -> None:
    said = {name: {"weight": 1.0} for name in LIGHT}
    said |= {name: {"weight": 1.0, "coordinates": coordinates} for name in ("grounding", "counting", "detection")}

    async def main(faithful: bool) -> dict[str, float]:
        found = registry.build(Rewards.model_validate(said), Surroundings(faithful=faithful))
        return {name: (await reward(example(answer, truth), response)).value for name, reward in found.items()}

    for name, found in asyncio.run(main(False)).items():
        assert LIGHT[name][0] <= found <= LIGHT[name][1], name
    assert not any(math.isnan(found) for found in asyncio.run(main(True)).values())


@pytest.fixture(scope="module")
def checked() -> Iterator[Any]:
    """The accuracy of a response, by one process for all tests."""
    with asyncio.Runner() as runner:
        reward = registry.build(Rewards.model_validate({"accuracy": 1.0}), Surroundings())["accuracy"]

        async def ask(of: Example, response: str) -> Part:
            return await reward(of, response)

        yield lambda of, response: runner.run(ask(of, response))
        runner.run(reward.close())


@pytest.mark.slow
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(response=garbage.texts, answer=garbage.texts)
def test_the_accuracy_of_any_response_is_0_or_1_or_missing(checked: Any, response: str, answer: str) -> None:
    found = checked(example(answer), response).value

    assert found in {0.0, 1.0} or math.isnan(found)
