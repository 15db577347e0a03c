from __future__ import annotations

import pytest
from pydantic import ValidationError

from jobs.judge import settings
from jobs.judge.settings import Settings


def test_a_model_is_all_that_must_be_said() -> None:
    assert Settings(model="m").engine == "auto"
    assert Settings(model="m").tensor_parallel == 1


@pytest.mark.parametrize("name", ["api-key", "--api_key", "port", "served-model-name"])
def test_what_the_judge_sets_itself_cannot_be_set_again(name: str) -> None:
    with pytest.raises(ValidationError, match="is set by the judge itself"):
        Settings(model="m", extra_args={name: "x"})


@pytest.mark.parametrize("name", ["trust-remote-code", "trust_remote_code", "middleware", "trust-remote-code=true"])
def test_options_that_run_code_of_others_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="would run code or open files"):
        Settings(model="m", extra_args={name: True})


def test_auto_is_vllm_where_it_is_installed() -> None:
    assert settings.chosen_engine(Settings(model="m", engine="auto")) == "vllm"
    assert settings.chosen_engine(Settings(model="m", engine="transformers")) == "transformers"


def test_a_path_without_a_folder_is_missing_and_an_id_is_not_looked_up() -> None:
    assert [str(p) for p in settings.missing(Settings(model="/no/such/model"))] == [
        "model: /no/such/model is not a folder. Download it, or correct the path."
    ]
    assert settings.missing(Settings(model="Qwen/Qwen2.5-0.5B")) == []


def test_nothing_is_missing_here() -> None:
    assert settings.missing(Settings(model="m", engine="vllm")) == []
    assert settings.missing(Settings(model="m", engine="transformers")) == []
