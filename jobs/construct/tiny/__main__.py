"""Makes the tiny extractor, or finds it made: ``python -m jobs.construct.tiny --settings tiny.yaml --out out/``.

Publishes ``model``, a folder. It lies beside the other tiny models, in ``$ORCH_CACHE`` or ``~/.cache/orchestrator``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs import entry
from jobs.construct.tiny.settings import Settings
from orchestrator import rendezvous
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.files import write_json
from orchestrator.progress import Progress

SOURCES = ("tiny/cases.py", "tiny/__main__.py", "prompts.py")
CHAT_WORDS = "system user assistant\nYou are a helpful assistant.\n"
BATCH = 50
REPLY_TOKENS_MAX = 96


def main() -> int:
    """Build unless it is built, publish where it is, and return the exit code."""
    drain = entry.Drain().listen()
    try:
        context, settings = entry.start("construct.tiny", Settings)
        context.progress.update("looking for an earlier build")
        from jobs.tiny import cache

        folder = cache.root() / cache.name({"extractor": settings.model_dump(), "sources": _sources()})
        if not folder.is_dir() and not _make(folder, settings, context.progress, drain):
            return entry.DRAINED
    except OrchestratorError as error:
        return entry.exit_with(error)
    rendezvous.publish_outputs(context.run, context.role, {"model": str(folder / "extractor")})
    context.progress.update("done", message=f"in {folder}")
    return 0


def _make(folder: Path, settings: Settings, progress: Progress, drain: entry.Drain) -> bool:
    from jobs.tiny import cache

    return cache.build(folder, lambda beside: build(settings, beside, progress, drain))


def build(settings: Settings, folder: Path, progress: Progress, drain: entry.Drain) -> bool:
    """Train the extractor in ``folder`` and measure it; return False if asked to stop.

    Raises:
        RunFailed: The training failed.
        InputError: It lists fewer solutions' facts without a fault than ``exact_min``.
    """
    from jobs.construct.tiny import cases
    from jobs.tiny import shapes, tokenizer, training

    work = folder / "work"
    work.mkdir()
    taught = cases.cases("train", settings.model.examples, seed=settings.seed)
    examples = work / "extractor.jsonl"
    rows = ({"messages": case.messages, "response": case.reply} for case in taught)
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    fixed = [CHAT_WORDS, *(message["content"] for message in taught[0].messages)]
    shapes.save_judge(
        work / "base",
        tokenizer.build([*fixed, *cases.words(taught)]),
        hidden=settings.model.hidden,
        layers=settings.model.layers,
        seed=settings.seed,
    )
    job = training.Training(name="extractor", settings=_training(settings, work / "base", examples), out=work / "out")
    if not training.run([job], progress, drain, settings.timeout_s):
        return False
    (job.out / "model").rename(folder / "extractor")
    shutil.rmtree(work)
    _check(folder / "extractor", cases.cases("test", settings.cases, seed=settings.seed), settings, progress)
    return True


def _training(settings: Settings, model: Path, examples: Path) -> dict[str, Any]:
    start = settings.model
    return {
        "model": str(model),
        "path": str(examples),
        "format_prompt": "",
        "steps": start.steps,
        "batch": start.batch,
        "micro_batch": start.batch,
        "learning_rate": start.learning_rate,
        "warmup_steps": start.warmup_steps,
        "weight_decay": 0.01,
        "beta2": 0.95,
        "prompt_weight": start.prompt_weight,
        "seed": settings.seed,
    }


def _check(folder: Path, held_out: Sequence[Any], settings: Settings, progress: Progress) -> None:
    """Measure the extractor by the replies it really gives, and write ``extractor.json``."""
    replies = _replies(folder, [case.messages for case in held_out], progress)
    exact = sum(reply.strip() == case.reply for reply, case in zip(replies, held_out, strict=True)) / len(held_out)
    write_json(folder / "extractor.json", {"exact": exact, "cases": len(held_out)})
    if exact < settings.exact_min:
        raise InputError(
            f"tiny extractor: It lists the facts of {exact:.1%} of held-out solutions without a fault, fewer than "
            f"exact_min={settings.exact_min:g}. Raise model.steps."
        )


def _replies(folder: Path, questions: Sequence[list[dict[str, Any]]], progress: Progress) -> list[str]:
    import torch

    from jobs import vlm

    processor = vlm.load_processor(folder)
    model = vlm.load_model(folder, trainable=False)
    said: list[str] = []
    for first in range(0, len(questions), BATCH):
        progress.update("measuring the extractor", first, len(questions), unit="cases")
        prompts = [vlm.encode_chat(processor, messages) for messages in questions[first : first + BATCH]]
        inputs = vlm.pad_left(prompts, vlm.pad_id(processor))
        with torch.no_grad():
            generated = model.generate(
                **inputs,
                max_new_tokens=REPLY_TOKENS_MAX,
                do_sample=False,
                eos_token_id=vlm.end_id(processor),
                pad_token_id=vlm.pad_id(processor),
            )
        said += [vlm.decode(processor, row) for row in generated[:, inputs["input_ids"].shape[1] :].tolist()]
    progress.update("measuring the extractor", len(questions), len(questions), unit="cases")
    return said


def _sources() -> str:
    here = Path(__file__).resolve().parents[1]
    return hashlib.sha256(b"\0".join((here / source).read_bytes() for source in SOURCES)).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
