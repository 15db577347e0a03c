"""Data and warm start of a policy for grounding, counting, OCR or detection: scenes of ``jobs.data.scenes``.

train.parquet test.parquet    for ``source: examples``
right.parquet                 the same training scenes with right responses, for ``jobs.sft``
base/                         the policy before its warm start
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobs.data import IMAGE, canonical
from jobs.data.scenes import registry
from jobs.data.scenes.scene import Scene
from jobs.tiny import shapes, tokenizer, training
from jobs.tiny.settings import Settings
from orchestrator.progress import Progress


def draw(settings: Settings, folder: Path, progress: Progress) -> None:
    """Write the scenes for training and testing, and right responses to the former."""
    sizes = {"train": settings.train, "test": settings.test}
    for done, (split, size) in enumerate(sizes.items()):
        progress.update("drawing scenes", done, 2, unit="files", message=split)
        scenes = registry.scenes(settings.task, split, size, seed=settings.seed)
        canonical.write(folder / f"{split}.parquet", [scene.example for scene in scenes])
        if split == "train":
            write_responses(folder / "right.parquet", scenes, [scene.response for scene in scenes])
    progress.update("drawing scenes", 2, 2, unit="files")


def policy(settings: Settings, folder: Path, work: Path, progress: Progress) -> training.Training:
    """Write the untrained policy and what it shall imitate; return its fine-tuning."""
    size = settings.policy.examples
    warm = registry.scenes(settings.task, "warm", size, seed=settings.seed, careless=settings.careless)
    progress.update("drawing the warm start", 0, len(warm), unit="scenes")
    path = work / "policy.parquet"
    write_responses(path, warm, [scene.careless for scene in warm])
    texts = [text for scene in warm for text in (scene.example.problem.removeprefix(IMAGE), scene.careless)]
    base = folder / "base"
    shapes.save_policy(
        base,
        tokenizer.build(
            [training.CHAT_WORDS, *texts, settings.format_prompt],
            special=tokenizer.BOXES,
            whole=registry.TASKS[settings.task].words,
        ),
        hidden=settings.policy.hidden,
        layers=settings.policy.layers,
        seed=settings.seed,
        std=shapes.SEEING_STD,
    )
    return training.warm_start("policy", settings.policy, base, path, settings, work, settings.format_prompt)


def write_responses(path: Path, scenes: Sequence[Scene], responses: Sequence[str]) -> None:
    """Write scenes with a column ``response``, for ``jobs.sft``."""
    import pyarrow as pa

    rows = [
        {
            "problem": scene.example.problem,
            "images": [{"bytes": image, "path": None} for image in scene.example.images],
            "response": response,
        }
        for scene, response in zip(scenes, responses, strict=True)
    ]
    texts = [("problem", pa.string()), ("response", pa.string())]
    canonical.write_parquet(path, rows, pa.schema([texts[0], ("images", canonical.image_type()), texts[1]]))
