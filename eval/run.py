"""The job ``eval``: models answer tasks, the training's own rewards measure the answers.

    python -m eval.run --run-dir runs/geo3k --role eval      inside a run
    python -m eval.run --settings eval.yaml --out out/       by hand

While the judge reads one batch, the model answers the next. Every batch is on disk before the
following one counts, so a stopped evaluation loses at most two and goes on where it was.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orchestrator
from eval.samples import Answer, Samples, fingerprint, known
from eval.settings import Settings, Task, in_order
from eval.timeline import seconds
from jobs import data, entry
from jobs.entry import DRAINED, Context, Drain
from orchestrator import rendezvous
from orchestrator.errors import OrchestratorError
from orchestrator.files import private_folder

if TYPE_CHECKING:
    from eval.generation import GreedyModel
    from jobs.rewards.scorer import Score, Scorer

VERSIONS = ("torch", "transformers", "math-verify")
MAGIC = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpg"))


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model on one task.

    Attributes:
        label: The model's label.
        task: The task's name.
        examples: The problems, in the file's order.
        samples: Where the answers are kept.
        sha256: Hash of the model's weights; None for a name on the hub.
    """

    label: str
    task: str
    examples: Sequence[data.Example]
    samples: Samples
    sha256: str | None

    @property
    def left(self) -> list[data.Example]:
        """Problems without an answer."""
        return [example for example in self.examples if example.id not in self.samples.done]


async def evaluate(context: Context, settings: Settings, drain: Drain) -> int:
    """Evaluate every model on every task and return the exit code.

    Raises:
        InputError: A task's file cannot be read.
        NotFound: There is no such file.
        ConflictError: The folder holds another evaluation.
        JudgeOutage: The judge stayed away longer than its budget; what was judged is kept.
    """
    from jobs.rewards.scorer import Scorer

    examples = {name: _examples(task) for name, task in settings.tasks.items()}
    async with Scorer.of_role(context, settings.metrics()) as scorer:
        for label in in_order(settings.models):
            context.progress.update(f"checking {label}", message="its weights and what is answered already")
            jobs = await asyncio.to_thread(_jobs, context, settings, label, examples)
            if not await _evaluate_model(context, settings, drain, scorer, label, jobs):
                return DRAINED
    rendezvous.publish_outputs(context.run, context.role, {"folder": str(context.run.eval)})
    return 0


async def _evaluate_model(
    context: Context, settings: Settings, drain: Drain, scorer: Scorer, label: str, jobs: Sequence[Job]
) -> bool:
    """Return whether all is done; False if a drain came first."""
    pending = [job for job in jobs if job.left or job.samples.summary is None]
    if not pending:
        return True
    from eval.generation import GreedyModel  # torch and transformers take seconds to import

    context.progress.update(f"loading {label}", message=settings.models[label])
    model = await asyncio.to_thread(
        GreedyModel,
        settings.models[label],
        device=settings.device,
        dtype=settings.dtype,
        max_new_tokens=settings.max_new_tokens,
    )
    for job in pending:
        await Evaluation(context, settings, drain, scorer, model, job).run()
        if job.left:
            return False
        _finish(context, settings, model, job)
    del model
    gc.collect()  # two models need not fit into memory at once
    return True


class Evaluation:
    """One model answering one task, in batches, judged one batch behind."""

    def __init__(
        self, context: Context, settings: Settings, drain: Drain, scorer: Scorer, model: GreedyModel, job: Job
    ) -> None:
        self._context = context
        self._settings = settings
        self._drain = drain
        self._scorer = scorer
        self._model = model
        self._job = job
        self._already = len(job.samples.done)
        self._began = time.monotonic()

    async def run(self) -> None:
        """Answer and judge what is left, until it is done or a drain is asked for."""
        left, size = self._job.left, self._settings.batch
        judging: asyncio.Task[None] | None = None
        self._say()
        try:
            for first in range(0, len(left), size):
                batch = left[first : first + size]
                answers = await asyncio.to_thread(self._answers, batch)
                if judging is not None:
                    await judging
                if answers is None:
                    return
                judging = asyncio.create_task(self._judge(batch, answers))
            if judging is not None:
                await judging
        finally:
            if judging is not None and not judging.done():
                judging.cancel()

    def _answers(self, batch: Sequence[data.Example]) -> list[Answer] | None:
        # The model's method is wrapped by torch, whose types the checker does not read.
        answers: list[Answer] | None = self._model.answers(
            batch, self._settings.format_prompt, stop=lambda: self._drain.requested
        )
        return answers

    async def _judge(self, batch: Sequence[data.Example], answers: Sequence[Answer]) -> None:
        scores = await asyncio.gather(
            *(self._scorer.score(example, answer.text) for example, answer in zip(batch, answers, strict=True))
        )
        rows = [self._row(*triple) for triple in zip(batch, answers, scores, strict=True)]
        self._job.samples.append(rows)
        self._say()

    def _row(self, example: data.Example, answer: Answer, score: Score) -> dict[str, Any]:
        parts = {name: known(value) for name, value in score.parts.items() if name not in score.left_out}
        accuracy = parts["accuracy"]
        return {
            "id": example.id,
            "images": [_store(self._context.run.path, image) for image in example.images],
            "prompt": data.prompt(example, self._settings.format_prompt),
            "response": answer.text,
            "tokens": answer.tokens,
            "finish": "stop" if answer.finished else "length",
            "answer": example.answer,
            "visual_key_info": example.visual_key_info,
            "parts": parts,
            "correct": None if accuracy is None else accuracy > 0,
            "judge": _judge(score),
            "batch_s": answer.batch_s,
        }

    def _say(self) -> None:
        done, total = len(self._job.examples) - len(self._job.left), len(self._job.examples)
        answered = len(self._job.samples.done) - self._already
        left_s = (time.monotonic() - self._began) / answered * (total - done) if answered else None
        right = [row["correct"] for row in self._job.samples.done.values() if row["correct"] is not None]
        words = [f"accuracy {sum(right) / len(right):.3f}"] if right else []
        words += [f"{seconds(left_s)} left"] if left_s else []
        phase = f"evaluating {self._job.label} on {self._job.task}"
        self._context.progress.update(phase, done, total, unit="problems", message=", ".join(words))


def _jobs(context: Context, settings: Settings, label: str, examples: dict[str, list[data.Example]]) -> list[Job]:
    from eval.generation import weights_sha256

    model = settings.models[label]
    sha256 = weights_sha256(model)
    identity = {
        "model": sha256 or model,
        "format_prompt": settings.format_prompt,
        "max_new_tokens": settings.max_new_tokens,
        "rewards": fingerprint(settings.metrics().model_dump(mode="json")),
    }
    return [
        Job(
            label=label,
            task=task,
            examples=of,
            samples=Samples(context.run.eval / label / task, identity=identity),
            sha256=sha256,
        )
        for task, of in examples.items()
    ]


def _examples(task: Task) -> list[data.Example]:
    return data.load(task.source, Path(task.path))[: task.limit]


def _finish(context: Context, settings: Settings, model: GreedyModel, job: Job) -> None:
    task = settings.tasks[job.task]
    about = {
        "label": job.label,
        "task": job.task,
        "data": task.model_dump(mode="json"),
        "model": settings.models[job.label],
        "model_sha256": job.sha256,
        "model_revision": model.revision,
        "judge": _judge_model(context, settings),
        "settings": settings.model_dump(mode="json", exclude={"models", "tasks"}),
        "decoding": {"temperature": 0, "device": model.device, "dtype": model.dtype},
        "versions": _versions(),
        "finished_at": round(time.time(), 3),
    }
    summary = job.samples.finish([example.id for example in job.examples], about)
    context.ledger.append("evaluated", label=job.label, task=job.task, n=summary["n"], accuracy=summary["accuracy"])


def _judge_model(context: Context, settings: Settings) -> str | None:
    part = settings.metrics().visual_perception
    if part is None:
        return None
    endpoint = rendezvous.lookup(context.run, part.judge, generation=context.generation)
    return endpoint.model if endpoint else None


def _versions() -> dict[str, str]:
    return {"orchestrator": orchestrator.__version__, "python": platform.python_version()} | {
        name: version(name) for name in VERSIONS
    }


def _judge(score: Score) -> dict[str, Any] | None:
    if score.judge is None:
        return None
    return {name: getattr(score.judge, name) for name in ("reply", "latency_s", "cached", "attempts", "missing")}


def _store(run: Path, image: bytes) -> str:
    """Keep an image once, under a name made of what it shows, and return that name."""
    kind = next((kind for magic, kind in MAGIC if image.startswith(magic)), "img")
    name = f"images/{hashlib.sha256(image).hexdigest()[:16]}.{kind}"
    if not (run / name).exists():
        private_folder(run / "images")
        (run / name).write_bytes(image)
    return name


def main(arguments: list[str] | None = None) -> int:
    """Run the job and return its exit code."""
    drain = Drain().listen()
    try:
        context, settings = entry.start("eval", Settings, arguments)
        return asyncio.run(evaluate(context, settings, drain))
    except OrchestratorError as error:
        return entry.exit_with(error)


if __name__ == "__main__":
    sys.exit(main())
