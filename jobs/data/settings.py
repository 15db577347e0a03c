"""What a recipe says about data. Imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from eval import benchmarks
from orchestrator.rendezvous import PLACEHOLDER
from orchestrator.section import Section

HOW_TO_GET = {
    "geo3k": "Get plain Geometry3K with `huggingface-cli download --repo-type dataset hiyouga/geometry3k "
    "--local-dir data/geometry3k`, or the annotated training set from the data set "
    "tongxiao2002/Perception-R1-Dataset. Without either, recipes/geo3k-tiny.yaml makes its own data.",
    "vlm_r1": "Get rec_jsons_processed.zip from the data set omlab/VLM-R1 and COCO's train2014 images; name "
    "the images' folder in 'images'.",
    "pr1": "Get the training data from the data set Kangheng/PR1-Datasets-Grounding; name the images' folder in "
    "'images'.",
    "refcoco": "Get refcoco_val.json and its seven siblings from the data set Kangheng/PR1-Evaluations and COCO's "
    "train2014 images; name the images' folder in 'images'.",
    "pixmo_count": "Get pixmo_count_test540.jsonl and pixmo_count_val540.jsonl from the data set "
    "Kangheng/PR1-Evaluations, or allenai/pixmo-count with the images that its URLs name, each saved as <sha256>.jpg.",
    "page_ocr": "Get focus_benchmark_test.zip from the data set ucaslcl/Fox_benchmark_data.",
    "coco": "Get annotations_trainval2017.zip and val2017.zip from https://cocodataset.org/#download; name the "
    "images' folder in 'images'.",
    "llama_factory": "The path is LLaMA-Factory's dataset_info.json, or its folder.",
    "vlmevalkit": "Get <benchmark>.tsv from the addresses in VLMEvalKit's vlmeval/dataset; they are in $LMUData after "
    "VLMEvalKit has run once.",
    "verl": "The path is a parquet file with prompt, images and reward_model, as verl's data_preprocess scripts "
    "write it.",
    "plain": "The path is a .jsonl, .json, .csv, .tsv or .parquet file; 'columns' says what its columns are.",
    "examples": "Write one with `python -m jobs.data convert SOURCE PATH --to parquet OUT`.",
    **benchmarks.HOW_TO_GET,
}
"""Where the files of a source come from, for the error that says one is not there."""

COLUMNS = (
    "id",
    "problem",
    "answer",
    "images",
    "visual_key_info",
    "kind",
    "boxes",
    "labels",
    "points",
    "count",
    "choices",
)
"""What a column of a file can be."""
TAKE = re.compile(r"(first|end|random):(\d+(?:\.\d+)?%|\d+)")


class Resize(Section):
    """Makes images as large as the model sees them, and scales boxes in pixels along."""

    min_pixels: int = Field(3136, ge=1)
    """Smaller images are enlarged."""
    max_pixels: int = Field(1_000_000, ge=1)
    """Larger ones are shrunk."""
    factor: int = Field(28, ge=1)
    """Sides become multiples of this: patch times merge of the model."""

    @model_validator(mode="after")
    def _limits_leave_room(self) -> Resize:
        if self.max_pixels < max(self.min_pixels, self.factor**2):
            raise ValueError(
                f"max_pixels={self.max_pixels} is less than min_pixels={self.min_pixels} or than one square of "
                f"{self.factor} x {self.factor}. Raise max_pixels."
            )
        return self


class Options(Section):
    """How a file is read, where the source alone does not say it."""

    kind: Literal["math", "choice", "text", "ocr", "grounding", "counting", "detection"] | None = None
    """What the answers are. None takes the source's word for it."""
    columns: dict[str, str] = Field({})
    """Whose columns have other names: ours, and the file's. ``{answer: gt, images: picture}``."""
    prompt: str | None = None
    """A name in ``jobs.data.prompts.PROMPTS``, or a text with ``{question}`` in it, around every question."""
    images: str | None = None
    """The folder that image paths start from; several files have one each, joined by ``:``. None is the file's own."""
    coordinates: Literal["pixel", "rel1000", "rel1"] | None = None
    """Units of the file's boxes and points, where the source leaves that open."""
    resize: Resize | None = None
    """None leaves images as they are."""
    take: str | None = None
    """``first:1000``, ``end:10%`` or ``random:500``: only some rows, in the file's order. Random ones are the same
    at every reading."""
    dataset: str | None = None
    """Which entry of LLaMA-Factory's dataset_info.json; None if there is only one."""

    @field_validator("take")
    @classmethod
    def _take_is_a_rule(cls, value: str | None) -> str | None:
        if value is not None and not TAKE.fullmatch(value):
            raise ValueError(
                f"take is first:N, end:N or random:N, with N a number or a share such as 10%, got {value!r}."
            )
        return value

    @field_validator("columns")
    @classmethod
    def _columns_are_known(cls, value: dict[str, str]) -> dict[str, str]:
        unknown = [name for name in value if name not in COLUMNS]
        if unknown:
            raise ValueError(f"{', '.join(map(repr, unknown))}: no such column of ours. Known: {', '.join(COLUMNS)}.")
        return value


class Data(Options):
    """Where problems come from."""

    source: str = "geo3k"
    """A name in ``jobs.data.SOURCES``, or ``package.module:function`` from a path to examples."""
    path: str = Field(min_length=1)
    """A file, or a folder of the files of one split. Some sources take several files joined by ``:``."""


def files(path: str) -> list[str]:
    """Return the files that a path names: itself, or, if it is none, its parts between colons.

    >>> files("a.jsonl:b.jsonl")
    ['a.jsonl', 'b.jsonl']
    """
    return [path] if Path(path).exists() else [part for part in path.split(":") if part]


def absent(place: str, source: str, path: str) -> list[str]:
    """Return a sentence for each file that is not there; nothing can be said of one that a role still has to make.

    Args:
        place: The setting that names the file, such as ``"data.path"``.
        source: The data's source.
        path: The file or folder, as the recipe names it.
    """
    if PLACEHOLDER.search(path):
        return []
    return [
        f"{place}: There is no file {file!r}. {HOW_TO_GET.get(source, '')}".rstrip()
        for file in files(path)
        if not Path(file).exists()
    ]
