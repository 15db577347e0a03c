"""Makes everything in one folder: scenes, untrained models, their warm start, the judge's measurement.

train.parquet test.parquet    scenes: of geo3k in Perception-R1's schema, of other tasks as ``perception`` says
base/                         the policy before its warm start
policy/ judge/                the models; judge/judge.json says how good the judge is. Only geo3k has one
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from jobs.data import synthetic
from jobs.entry import Drain
from jobs.rewards import judge_prompt
from jobs.tiny import judge_cases, judge_quality, perception, shapes, tokenizer, training
from jobs.tiny.settings import Settings
from orchestrator.errors import InputError
from orchestrator.files import write_json
from orchestrator.progress import Progress


def build(settings: Settings, folder: Path, progress: Progress, drain: Drain) -> bool:
    """Fill ``folder``; return False if asked to stop.

    Raises:
        RunFailed: A training failed.
        InputError: The judge is worse than ``judge_accuracy_min``. The same settings would make the
            same judge again, so it is the settings that are wrong.
    """
    work = folder / "work"
    work.mkdir()
    if settings.task == "geo3k":
        warm = _draw(settings, folder, progress)
        jobs = [_policy(settings, folder, work, warm, progress), _judge(settings, work, progress)]
    else:
        perception.draw(settings, folder, progress)
        jobs = [perception.policy(settings, folder, work, progress)]
    if not training.run(jobs, progress, drain, settings.timeout_s):
        return False
    for job in jobs:
        (job.out / "model").rename(folder / job.name)
        (job.out / "sft.jsonl").rename(folder / f"{job.name}.sft.jsonl")
    shutil.rmtree(work)
    if settings.task == "geo3k":
        _measure(settings, folder / "judge", progress)
    return True


def _draw(settings: Settings, folder: Path, progress: Progress) -> list[synthetic.Scene]:
    """Write the scenes for training and testing; return those of the warm start."""
    sizes = {"train": settings.train, "test": settings.test, "warm": settings.policy.examples}
    scenes = {
        split: synthetic.scenes(
            split,
            size,
            seed=settings.seed,
            asked=settings.asked,
            others=settings.others,
            count_max=settings.count_max,
        )
        for split, size in sizes.items()
    }
    for done, split in enumerate(("train", "test")):
        progress.update("drawing scenes", done, 2, unit="files", message=split)
        synthetic.write(folder / f"{split}.parquet", scenes[split])
    progress.update("drawing scenes", 2, 2, unit="files")
    return scenes["warm"]


def _policy(
    settings: Settings, folder: Path, work: Path, warm: Sequence[synthetic.Scene], progress: Progress
) -> training.Training:
    progress.update("drawing the warm start", 0, len(warm), unit="scenes")
    responses = [synthetic.careless_response(scene, settings.careless, settings.careless_above) for scene in warm]
    path = work / "policy.parquet"
    synthetic.write(path, warm, responses)
    questions = [f"{scene.question} {settings.format_prompt}" for scene in warm]
    base = folder / "base"
    shapes.save_policy(
        base,
        tokenizer.build([training.CHAT_WORDS, *questions, *responses]),
        hidden=settings.policy.hidden,
        layers=settings.policy.layers,
        seed=settings.seed,
    )
    return training.warm_start("policy", settings.policy, base, path, settings, work, settings.format_prompt)


def _judge(settings: Settings, work: Path, progress: Progress) -> training.Training:
    progress.update("writing the judge's cases", 0, settings.judge.examples, unit="cases")
    cases = judge_cases.cases("train", settings.judge.examples, seed=settings.seed)
    path = work / "judge.jsonl"
    asked = [judge_prompt.messages(case.visual_key_info, case.response, judge_quality.TEMPLATE) for case in cases]
    rows = ({"messages": messages, "response": case.reply} for messages, case in zip(asked, cases, strict=True))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    base = work / "judge-base"
    words = [training.CHAT_WORDS, *[message["content"] for message in asked[0]], *judge_cases.words(cases)]
    shapes.save_judge(
        base,
        tokenizer.build(words),
        hidden=settings.judge.hidden,
        layers=settings.judge.layers,
        seed=settings.seed,
    )
    return training.warm_start("judge", settings.judge, base, path, settings, work, "")


def _measure(settings: Settings, judge: Path, progress: Progress) -> None:
    cases = judge_cases.cases("test", settings.judge_cases, seed=settings.seed)
    quality = judge_quality.measure(judge, cases, progress)
    write_json(judge / "judge.json", quality)
    if quality["balanced_accuracy"] < settings.judge_accuracy_min:
        raise InputError(
            f"tiny: The judge's balanced accuracy is {quality['balanced_accuracy']:.3f}, below "
            f"judge_accuracy_min={settings.judge_accuracy_min:g}. Raise judge.steps."
        )
