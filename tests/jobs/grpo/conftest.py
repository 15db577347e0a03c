"""A random tiny Qwen2.5-VL and synthetic scenes: enough to exercise every line of the trainer."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.data import Example
from jobs.data import synthetic as scenes_module
from jobs.data.geo3k import load
from jobs.tiny import shapes, tokenizer


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "scenes.parquet"
    scenes_module.write(path, scenes_module.scenes("train", 12, seed=1))
    return path


@pytest.fixture(scope="session")
def examples(data_file: Path) -> list[Example]:
    return load(data_file)


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    words = tokenizer.build([example.problem for example in examples] + ["<think> </think> <answer> </answer>"])
    shapes.save_policy(folder, words, hidden=64, layers=2, seed=1)
    return folder
