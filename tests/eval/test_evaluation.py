from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from eval.evaluation import Evaluation
from eval.generation import Answer, Question, questions
from eval.job import Job
from eval.samples import Samples, summarise
from eval.settings import Endpoint, Settings, in_order, missing, services
from jobs import data, entry
from jobs.entry import Drain
from orchestrator.errors import ConflictError

TASKS = {"t": {"path": "t.parquet"}}


class Model:
    """Answers one question after the other."""

    about: dict[str, Any] = {"device": "cpu"}  # noqa: RUF012 - an answering's interface

    def __init__(self, *, room: int = 4, each_s: float = 0.02) -> None:
        self.room = room
        self.spans: list[tuple[float, float]] = []
        self._each_s = each_s

    async def answers(self, asked: Sequence[Question]) -> AsyncGenerator[Answer, None]:
        for question in asked:
            began = time.monotonic()
            await asyncio.sleep(self._each_s)
            self.spans.append((began, time.monotonic()))
            yield Answer(key=question.key, text=question.text, tokens=1, finish="stop", seconds=self._each_s)

    async def close(self) -> None:
        """Nothing to let go of."""


class Judge:
    """Needs a moment for every answer, however many there are."""

    def __init__(self, *, each_s: float = 0.02, fails: bool = False) -> None:
        self.spans: list[tuple[float, float]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._each_s = each_s
        self._fails = fails

    async def measure(self, example: data.Example, response: str) -> dict[str, Any]:  # noqa: ARG002 - a meter's interface
        began = time.monotonic()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(self._each_s)
        self._at_once -= 1
        if self._fails:
            raise RuntimeError("the judge is gone")
        self.spans.append((began, time.monotonic()))
        return {"parts": {"accuracy": 1.0}, "correct": True, "extracted": "1", "prediction": {}, "judge": None}


def examples(count: int) -> list[data.Example]:
    return [
        data.Example(id=f"p{k}", problem="?", answer=f"{k}", images=(b"\x89PNG",), meta={"choices": ["a"]})
        for k in range(count)
    ]


def evaluation(
    folder: Path, model: Model, judge: Judge, drain: Drain, count: int = 8, **values: Any
) -> tuple[Evaluation, Job]:
    file = folder / "eval.yaml"
    file.write_text(json.dumps({"models": {"after": "m"}, "tasks": TASKS, **values}))
    context, settings = entry.start("eval", Settings, ["--settings", str(file), "--out", str(folder / "out")])
    job = Job(
        label="after",
        task="t",
        model="m",
        examples=examples(count),
        questions=questions(settings, examples(count)),
        samples=Samples(context.run.eval / "after/t", identity={"model": "m"}),
        sha256=None,
        about={},
    )
    return Evaluation(context, drain, judge, model, job), job


def test_an_answer_is_judged_while_the_next_is_generated(tmp_path: Path) -> None:
    model, judge = Model(), Judge()
    run, job = evaluation(tmp_path, model, judge, Drain())

    asyncio.run(run.run())

    assert not job.left
    overlaps = [
        min(judge_ended, ended) - max(judge_began, began)
        for (judge_began, judge_ended), (began, ended) in zip(judge.spans, model.spans[1:], strict=False)
    ]
    assert sum(overlaps) > 0.5 * sum(ended - began for began, ended in model.spans[1:])


def test_a_slow_judge_holds_up_the_model_before_too_much_waits(tmp_path: Path) -> None:
    judge = Judge(each_s=0.3)
    run, _ = evaluation(tmp_path, Model(each_s=0), judge, Drain(), count=150)

    asyncio.run(run.run())

    assert 64 <= judge.most_at_once <= 66


def test_rows_are_on_disk_before_the_end(tmp_path: Path) -> None:
    run, job = evaluation(tmp_path, Model(each_s=0.05), Judge(), Drain(), count=30)
    file = job.samples.folder / "samples.jsonl"

    async def main() -> bool:
        running = asyncio.create_task(run.run())
        while not (running.done() or file.read_bytes()):
            await asyncio.sleep(0.01)
        early = not running.done()
        await running
        return early

    assert asyncio.run(main())
    assert len(Samples(job.samples.folder, identity={"model": "m"}).done) == 30


class DrainAfter(Drain):
    """Asks to stop once a model has given so many answers."""

    def __init__(self, model: Model, answers: int) -> None:
        self._model = model
        self._answers = answers

    @property
    def requested(self) -> bool:
        return len(self._model.spans) >= self._answers

    @requested.setter
    def requested(self, value: bool) -> None:
        raise AssertionError(f"Nobody sends a signal here, got {value}.")


def test_a_drain_keeps_what_was_answered_and_begins_nothing_new(tmp_path: Path) -> None:
    model = Model()
    run, job = evaluation(tmp_path, model, Judge(each_s=0.3), DrainAfter(model, 2))

    asyncio.run(run.run())

    assert len(model.spans) == 2
    assert sorted(job.samples.done) == [("p0", 0), ("p1", 0)]


def test_a_drain_is_heard_while_an_answer_is_awaited(tmp_path: Path) -> None:
    drain = Drain()
    run, job = evaluation(tmp_path, Model(each_s=60), Judge(), drain)

    async def main() -> None:
        running = asyncio.create_task(run.run())
        await asyncio.sleep(0.05)
        drain.requested = True
        await asyncio.wait_for(running, timeout=20)

    asyncio.run(main())

    assert len(job.left) == 8


def test_a_failure_while_judging_is_not_lost(tmp_path: Path) -> None:
    run, job = evaluation(tmp_path, Model(), Judge(fails=True), Drain())

    with pytest.raises(RuntimeError, match="the judge is gone"):
        asyncio.run(run.run())

    assert len(job.left) == 8


def test_what_was_measured_is_kept_when_the_engine_fails(tmp_path: Path) -> None:
    class Broken(Model):
        async def answers(self, asked: Sequence[Question]) -> AsyncGenerator[Answer, None]:
            async for answer in super().answers(asked[:3]):
                yield answer
            await asyncio.sleep(0.1)
            raise RuntimeError("the engine is gone")

    run, job = evaluation(tmp_path, Broken(), Judge(), Drain())

    with pytest.raises(RuntimeError, match="the engine is gone"):
        asyncio.run(run.run())

    assert sorted(Samples(job.samples.folder, identity={"model": "m"}).done) == [("p0", 0), ("p1", 0), ("p2", 0)]


def test_a_row_says_what_was_asked_answered_and_found(tmp_path: Path) -> None:
    run, job = evaluation(tmp_path, Model(), Judge(), Drain(), count=1, format_prompt="Think.")

    asyncio.run(run.run())

    row = job.samples.done["p0", 0]
    assert row["images"][0].startswith("images/")
    assert {name: row[name] for name in row if name not in ("images", "batch_s")} == {
        "id": "p0",
        "sample": 0,
        "seed": 0,
        "kind": "math",
        "prompt": "? Think.",
        "response": "? Think.",
        "tokens": 1,
        "finish": "stop",
        "answer": "0",
        "target": None,
        "meta": {"choices": ["a"]},
        "visual_key_info": None,
        "parts": {"accuracy": 1.0},
        "correct": True,
        "extracted": "1",
        "prediction": {},
        "judge": None,
    }


def test_several_answers_to_a_problem_are_rows_of_their_own(tmp_path: Path) -> None:
    run, job = evaluation(tmp_path, Model(), Judge(), Drain(), count=2, temperature=1.0, n=2, seeds=[5, 6])

    asyncio.run(run.run())

    assert sorted(job.samples.done) == [(name, k) for name in ("p0", "p1") for k in range(4)]
    assert {row["seed"] for row in job.samples.done.values()} == {5, 6}


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


def answered(name: str, *rights: bool | None) -> list[dict[str, Any]]:
    return [row(name, right, None) | {"sample": k} for k, right in enumerate(rights)]


def test_problems_answered_several_times_have_pass_at_k_and_an_interval_over_problems() -> None:
    rows = answered("a", True, True) + answered("b", True, False) + answered("c", False, False)

    summary = summarise(rows)

    assert (summary["n"], summary["answers"], summary["correct"], summary["accuracy"]) == (3, 6, 3, 0.5)
    assert summary["interval"] == "bootstrap over problems"
    assert [summary["pass_at_k"][k]["estimate"] for k in ("1", "2")] == [0.5, 0.666667]


def test_what_has_no_right_and_wrong_is_not_called_unchecked() -> None:
    summary = summarise([row("a", None, 0.5) | {"kind": "ocr"}, row("b", True, 0.5) | {"kind": "math"}])

    assert (summary["n"], summary["unchecked"], summary["accuracy"]) == (2, 0, 1.0)


def test_when_all_is_answered_rows_lie_in_the_order_of_the_problems(tmp_path: Path) -> None:
    samples = Samples(tmp_path / "s", identity={})
    samples.append([row("c", True, 0.5), row("a", True, 0.5)])
    samples.append([row("b", True, 0.5)])

    summary = samples.finish([("a", 0), ("b", 0)], {"label": "x"})

    assert summary["n"] == 2
    assert list(Samples(tmp_path / "s", identity={}).done) == [("a", 0), ("b", 0), ("c", 0)]
    assert json.loads((tmp_path / "s/summary.json").read_text())["label"] == "x"


def test_a_line_cut_short_is_answered_again(tmp_path: Path) -> None:
    samples = Samples(tmp_path / "s", identity={})
    samples.append([row("a", True, 0.5)])
    with (tmp_path / "s/samples.jsonl").open("a") as file:
        file.write('{"id": "b", "corr')

    again = Samples(tmp_path / "s", identity={})
    again.append([row("b", True, 0.5)])

    assert list(Samples(tmp_path / "s", identity={}).done) == [("a", 0), ("b", 0)]


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
        pytest.param({"models": {"a": {}}, "tasks": TASKS}, "either a url or a role", id="an endpoint nowhere"),
        pytest.param(
            {"models": {"a": {"role": "r", "model": "x"}}, "tasks": TASKS},
            "says its model and key itself",
            id="a role's model",
        ),
        pytest.param({"models": {"a": "m"}, "tasks": TASKS, "n": 4}, "4 times the same", id="greedy samples"),
        pytest.param(
            {"models": {"a": "m"}, "tasks": TASKS, "temperature": 1.0, "seeds": [1, 1]}, "one of them twice", id="seeds"
        ),
        pytest.param(
            {"models": {"a": "m"}, "tasks": TASKS, "prompt_template": "x"}, "does not hold {problem}", id="template"
        ),
        pytest.param({"models": {"a": "m"}, "tasks": TASKS, "batchsize": 3}, "Extra inputs", id="unknown key"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate(values)


def test_before_is_evaluated_first_although_plans_sort_their_keys() -> None:
    assert in_order(["after", "before", "later"]) == ["before", "after", "later"]


def test_an_address_is_an_endpoint() -> None:
    settings = Settings.model_validate({"models": {"a": "http://node7:8000/v1"}, "tasks": TASKS})

    assert settings.models["a"] == Endpoint(url="http://node7:8000/v1")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        pytest.param("math", ["accuracy", "format", "repetition"], id="math has the published form"),
        pytest.param("choice", ["format", "repetition"], id="a letter is compared by its kind's own rule"),
        pytest.param("grounding", ["repetition", "grounding"], id="a box has no form of thought"),
        pytest.param("ocr", ["repetition"], id="a page neither"),
    ],
)
def test_rewards_are_measured_where_they_fit(kind: Any, expected: list[str]) -> None:
    rewards = {"accuracy": 1.0, "format": 1.0, "repetition": 1.0, "grounding": {"weight": 1.0}}
    settings = Settings.model_validate({"models": {"a": "m"}, "tasks": TASKS, "rewards": rewards})

    assert set(settings.metrics(settings.tasks["t"], kind).parts()) == set(expected)


def test_rewards_that_a_task_names_are_measured_in_any_case() -> None:
    tasks = {"t": {"path": "t", "rewards": {"format": 1.0}}}
    settings = Settings.model_validate({"models": {"a": "m"}, "tasks": tasks})

    assert list(settings.metrics(settings.tasks["t"], "ocr").parts()) == ["format"]


def test_every_role_that_is_asked_must_be_needed() -> None:
    settings = Settings.model_validate(
        {
            "models": {"a": "m", "b": {"role": "served"}},
            "tasks": TASKS,
            "judge": "critic",
            "measure": {"reader": {"role": "reader"}},
        }
    )

    assert services(settings) == {
        "judge": "critic",
        "measure.reader.role": "reader",
        "models.b.role": "served",
    }


def test_a_file_that_is_not_there_is_missing() -> None:
    settings = Settings.model_validate({"models": {"a": "m"}, "tasks": {"t": {"path": "nowhere.parquet"}}})

    assert [sentence.partition(" Get")[0] for sentence in missing(settings)] == [
        "tasks.t.path: There is no file 'nowhere.parquet'."
    ]
