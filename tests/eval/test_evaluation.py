from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from eval.run import Evaluation, Job
from eval.samples import Answer, Samples, summarise
from eval.settings import Settings, in_order
from jobs import data, entry
from jobs.entry import Drain
from jobs.rewards.scorer import Score
from orchestrator.errors import ConflictError

TASKS = {"t": {"path": "t.parquet"}}


class Model:
    """Needs a twentieth of a second for a batch."""

    device, dtype, revision = "cpu", "float32", None

    def __init__(self) -> None:
        self.spans: list[tuple[float, float]] = []

    def answers(self, examples: Any, format_prompt: str, *, stop: Any) -> list[Answer] | None:  # noqa: ARG002 - a model's interface
        began = time.monotonic()
        time.sleep(0.05)
        self.spans.append((began, time.monotonic()))
        return None if stop() else [Answer(text=e.answer, tokens=1, finished=True, batch_s=0.05) for e in examples]


class Judge:
    """Needs as long for an answer, however many there are."""

    def __init__(self, *, fails: bool = False) -> None:
        self.spans: list[tuple[float, float]] = []
        self._fails = fails

    async def score(self, example: data.Example, response: str) -> Score:  # noqa: ARG002 - a scorer's interface
        began = time.monotonic()
        await asyncio.sleep(0.05)
        if self._fails:
            raise RuntimeError("the judge is gone")
        self.spans.append((began, time.monotonic()))
        return Score(parts={"accuracy": 1.0, "visual_perception": 0.0}, total=0.0, left_out=("visual_perception",))


def examples(count: int) -> list[data.Example]:
    return [data.Example(id=f"p{k}", problem="?", answer=f"{k}", images=(), visual_key_info=None) for k in range(count)]


def evaluation(folder: Path, model: Model, judge: Judge, drain: Drain, count: int = 8) -> tuple[Evaluation, Job]:
    file = folder / "eval.yaml"
    file.write_text(json.dumps({"models": {"after": "m"}, "tasks": TASKS, "batch": 2}))
    context, settings = entry.start("eval", Settings, ["--settings", str(file), "--out", str(folder / "out")])
    samples = Samples(context.run.eval / "after/t", identity={"model": "m"})
    job = Job(label="after", task="t", examples=examples(count), samples=samples, sha256=None)
    return Evaluation(context, settings, drain, judge, model, job), job  # type: ignore[arg-type]


def test_a_batch_is_judged_while_the_next_is_answered(tmp_path: Path) -> None:
    model, judge = Model(), Judge()
    run, job = evaluation(tmp_path, model, judge, Drain())

    asyncio.run(run.run())

    assert not job.left
    answering, judging = model.spans, judge.spans[::2]
    for (judge_began, judge_ended), (began, ended) in zip(judging, answering[1:], strict=False):
        assert min(judge_ended, ended) - max(judge_began, began) > 0.02


def test_a_drain_keeps_what_was_judged_and_begins_nothing_new(tmp_path: Path) -> None:
    drain, model = Drain(), Model()
    run, job = evaluation(tmp_path, model, Judge(), drain)

    async def main() -> None:
        running = asyncio.create_task(run.run())
        await asyncio.sleep(0.08)
        drain.requested = True
        await running

    asyncio.run(main())

    assert [example.id for example in job.left] == ["p2", "p3", "p4", "p5", "p6", "p7"]
    assert len(model.spans) == 2


def test_a_failure_while_judging_is_not_lost(tmp_path: Path) -> None:
    run, job = evaluation(tmp_path, Model(), Judge(fails=True), Drain())

    with pytest.raises(RuntimeError, match="the judge is gone"):
        asyncio.run(run.run())

    assert len(job.left) == 8


def test_a_part_that_does_not_apply_is_not_among_the_parts(tmp_path: Path) -> None:
    run, job = evaluation(tmp_path, Model(), Judge(), Drain(), count=1)

    asyncio.run(run.run())

    assert job.samples.done["p0"]["parts"] == {"accuracy": 1.0}


def test_progress_says_how_good_and_how_long(tmp_path: Path) -> None:
    run, _ = evaluation(tmp_path, Model(), Judge(), Drain())

    asyncio.run(run.run())

    shown = json.loads((tmp_path / "out/progress/eval.json").read_text())
    assert (shown["phase"], shown["done"], shown["total"]) == ("evaluating after on t", 8, 8)
    assert shown["message"].startswith("accuracy 1.000")


def row(name: str, correct: bool | None, perception: float | None) -> dict[str, Any]:
    parts = {"accuracy": None if correct is None else float(correct), "visual_perception": perception}
    return {"id": name, "correct": correct, "parts": parts, "tokens": 4, "finish": "stop"}


def test_a_summary_counts_what_is_missing_and_leaves_it_out_of_the_means() -> None:
    summary = summarise([row("a", True, 0.5), row("b", False, None), row("c", None, 1.0), row("d", True, 0.0)])

    assert (summary["n"], summary["correct"], summary["unchecked"]) == (4, 2, 1)
    assert summary["accuracy"] == 0.666667
    assert summary["parts"]["visual_perception"] == {"mean": 0.5, "n": 3, "missing": 1}


def test_a_summary_of_nothing_claims_nothing() -> None:
    summary = summarise([])

    assert (summary["accuracy"], summary["accuracy_low"], summary["accuracy_high"]) == (None, 0.0, 1.0)


def test_a_line_cut_short_is_answered_again(tmp_path: Path) -> None:
    samples = Samples(tmp_path / "s", identity={})
    samples.append([row("a", True, 0.5)])
    with (tmp_path / "s/samples.jsonl").open("a") as file:
        file.write('{"id": "b", "corr')

    again = Samples(tmp_path / "s", identity={})
    again.append([row("b", True, 0.5)])

    assert list(Samples(tmp_path / "s", identity={}).done) == ["a", "b"]


def test_another_model_does_not_go_on_in_the_same_folder(tmp_path: Path) -> None:
    Samples(tmp_path / "s", identity={"model": "a", "batch": 1})

    with pytest.raises(ConflictError, match="This evaluation was begun with another model"):
        Samples(tmp_path / "s", identity={"model": "b", "batch": 1})


def test_a_judge_adds_visual_perception() -> None:
    settings = Settings.model_validate({"models": {"a": "m"}, "tasks": TASKS, "judge": "critic"})

    assert list(settings.metrics().parts()) == ["accuracy", "format", "visual_perception", "repetition"]
    assert settings.metrics().visual_perception.judge == "critic"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"models": {"../x": "m"}, "tasks": TASKS}, "'../x' cannot be a folder's name", id="label"),
        pytest.param({"models": {}, "tasks": TASKS}, "at least 1 item", id="no model"),
        pytest.param(
            {"models": {"a": "m"}, "tasks": TASKS, "rewards": {"format": 1.0}}, "accuracy is missing", id="no accuracy"
        ),
        pytest.param({"models": {"a": "m"}, "tasks": TASKS, "batchsize": 3}, "Extra inputs", id="unknown key"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate(values)


def test_before_is_evaluated_first_although_plans_sort_their_keys() -> None:
    assert in_order(["after", "before", "later"]) == ["before", "after", "later"]
