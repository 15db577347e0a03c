"""A random tiny Qwen2.5-VL and synthetic scenes for it to answer."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from jobs.data import synthetic

    path = tmp_path_factory.mktemp("data") / "scenes.parquet"
    synthetic.write(path, synthetic.scenes("test", 12, seed=1))
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, problems: Path) -> Path:
    from jobs.data.geo3k import load
    from jobs.tiny import shapes, tokenizer

    folder = tmp_path_factory.mktemp("model")
    words = tokenizer.build([example.problem for example in load(problems)] + ["<think> </think> <answer> </answer>"])
    shapes.save_policy(folder, words, hidden=64, layers=2, seed=1)
    return folder
