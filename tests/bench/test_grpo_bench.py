"""The arithmetic of the GRPO benches, and the work that both trainers are given."""

from __future__ import annotations

import asyncio
import statistics
import time
from itertools import islice
from pathlib import Path

import pytest
import torch

from bench.grpo import gradients, judge_stub, ours, stalls, steps, work
from bench.grpo.work import Size
from bench.trl import problem, reward
from jobs import vlm
from jobs.data.geo3k import load

SMALL = Size(hidden=32, layers=1, prompts=2, samples=2, tokens=8, mean_tokens=12, steps=2, micro_batch=4)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> work.Work:
    return work.build(tmp_path_factory.mktemp("work"), SMALL)


def book(**given: list[float]) -> steps.Book:
    found = steps.Book()
    side = steps.Side(staleness=1, ray=False).name
    names = {"trl": (steps.STEP, steps.TRL), "trl_judged": (steps.JUDGED, steps.TRL)}
    names |= {"ours": (steps.STEP, side), "ours_judged": (steps.JUDGED, side)}
    for name, values in given.items():
        found.values[names[name]] = values
    return found


def figure(found: list[steps.Figure], what: str, who: str = "ours, staleness 1, one process") -> steps.Figure:
    return next(each for each in found if each.what == what and each.who == who)


def test_ours_is_compared_with_trl_of_the_same_round() -> None:
    measured = book(trl=[2.0, 4.0], ours=[1.0, 1.0], trl_judged=[4.0, 4.0], ours_judged=[2.0, 1.0])

    found = steps.figures(measured, [steps.Side(staleness=1, ray=False)], judging_s=2.0, median_s=1.0)

    assert figure(found, steps.RATIO).values == [0.5, 0.25]
    assert figure(found, steps.JUDGED_RATIO).values == [0.5, 0.25]
    assert not figure(found, steps.JUDGED_RATIO).missed


def test_hidden_is_the_share_of_judging_that_a_step_does_not_take_longer() -> None:
    measured = book(trl=[2.0], ours=[1.0], trl_judged=[4.0], ours_judged=[1.5])

    found = steps.figures(measured, [steps.Side(staleness=1, ray=False)], judging_s=2.0, median_s=1.0)

    assert figure(found, steps.HIDDEN).values == [0.75]
    assert figure(found, steps.HIDDEN).missed
    assert figure(found, steps.HIDDEN, steps.TRL).values == [0.0]


def test_a_ratio_to_a_trl_that_was_not_measured_is_no_number() -> None:
    found = steps.figures(
        book(ours=[1.0], ours_judged=[1.5]), [steps.Side(staleness=1, ray=False)], judging_s=2.0, median_s=1.0
    )

    assert figure(found, steps.RATIO).median is None
    assert figure(found, steps.RATIO).note == "TRL was not measured"


def test_seconds_of_a_step_are_from_line_to_line() -> None:
    assert ours.step_s([{"time": 10.0}, {"time": 11.0}, {"time": 13.5}]) == [1.0, 2.5]


def test_a_step_with_a_checkpoint_before_it_is_compared_with_the_others() -> None:
    times = [0.0, 1.0, 2.0, 3.0, 7.0, 8.0, 9.0]
    lines = [{"step": float(number), "time": at} for number, at in enumerate(times, 1)]

    assert stalls.slower(lines) == 3.0


def test_a_difference_of_gradients_is_a_share_of_the_parameters_largest() -> None:
    theirs = {"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([2.0])}

    assert gradients.difference({"a": torch.tensor([1.0, -3.0]), "b": torch.tensor([2.2])}, theirs) == 0.25


def test_a_parameter_without_our_gradient_is_an_error() -> None:
    with pytest.raises(KeyError):
        gradients.difference({}, {"a": torch.ones(1)})


def test_every_trainer_meets_the_same_latencies() -> None:
    first = list(islice(judge_stub.latencies(2.0), 2001))

    assert first == list(islice(judge_stub.latencies(2.0), 2001))
    assert statistics.median(first) == pytest.approx(2.0, rel=0.05)


def test_judging_a_step_takes_as_long_as_its_longest_request() -> None:
    drawn = list(islice(judge_stub.latencies(1.0), 6))

    assert judge_stub.judge_s(1.0, rows=3, steps=2) == (max(drawn[:3]) + max(drawn[3:])) / 2


def test_a_problem_is_read_as_it_was_written(small: work.Work, tmp_path: Path) -> None:
    given = small.problem(2, judge="http://127.0.0.1/judge")

    assert problem.read(given.write(tmp_path / "problem.json")) == given
    assert len(given.prompts) == 2 * SMALL.prompts
    assert given.prompts[0].text.startswith("<image>")


def test_the_model_ends_its_responses_and_writes_no_image_token(small: work.Work) -> None:
    processor = vlm.load_processor(small.model)
    model = vlm.load_model(small.model, trainable=False)
    example = load(small.data)[3]
    prompt = vlm.encode(processor, f"{example.problem} {work.FORMAT_PROMPT}", example.images)
    inputs = vlm.pad_left([prompt], vlm.pad_id(processor))

    with torch.inference_mode():
        probabilities = model(**inputs).logits[0, -1].softmax(-1)

    assert 0.02 < float(probabilities[vlm.end_id(processor)]) < 0.3
    assert float(probabilities[vlm.banned_ids(processor)].max()) < 1e-12


@pytest.mark.slow
def test_the_stub_answers_every_request_after_a_time_of_its_own(tmp_path: Path) -> None:
    async def ask(judge: str) -> None:
        await reward.judged_at_once(judge, ["a", "b", "c"])
        await reward.close()

    with judge_stub.serving(tmp_path, 0.2) as judge:
        began = time.monotonic()
        asyncio.run(ask(judge))
        took = time.monotonic() - began

    assert took >= max(islice(judge_stub.latencies(0.2), 3))


@pytest.mark.slow
def test_ours_trains_on_the_work_and_says_what_every_step_took(small: work.Work) -> None:
    lines = ours.fresh(small, ours.settings(small, SMALL.steps)).train()

    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["actor/pg_loss"] != 0
    assert len(ours.step_s(lines)) == 1
