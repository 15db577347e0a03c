"""What an evaluation role may be told. Light: read by ``jobs.check`` before anything is submitted."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from eval.record import FIRST
from eval.target import Kind
from jobs.data import FORMAT_PROMPT
from jobs.data.settings import Data, absent
from jobs.rewards.settings import Accuracy, Format, Repetition, Rewards, VisualPerception
from orchestrator.run_directory import NAME
from orchestrator.section import Section

DEFAULT_REWARDS = Rewards(accuracy=Accuracy(weight=0.9), format=Format(weight=0.1), repetition=Repetition(weight=1.0))
FITS: dict[str, tuple[Kind, ...]] = {
    "accuracy": ("math",),
    "format": ("math", "choice", "text"),
    "thinking": ("math", "choice", "text"),
    "grounding": ("grounding",),
    "grounding_format": ("grounding",),
    "counting": ("counting",),
    "ocr": ("ocr",),
    "detection": ("detection",),
}
"""Rewards that say something of some kinds of problem only."""


class Endpoint(Section):
    """A model behind an address that speaks the OpenAI API."""

    url: str | None = Field(None, pattern="^https?://")
    """The base, up to and with ``/v1``. This or ``role``."""
    role: str | None = None
    """A service of the same run, by its name; it must be among the ``needs`` of this role."""
    model: str | None = None
    """The name to ask for. None asks the server, which must serve one only."""
    api_key_file: str | None = None
    """A file that holds the key, readable by you alone. A role brings its own."""
    concurrency: int = Field(64, ge=1)
    """Questions on their way at a time."""
    attempts: int = Field(4, ge=1)
    """Requests for one answer before the evaluation stops. Requests that met no server at all do not count."""
    timeout_s: float = Field(600.0, gt=0)
    """Longest time for one answer."""
    outage_s: float = Field(600.0, ge=0)
    """How long a server may be away, or busy, before the evaluation stops."""
    refusals: Literal["stop", "empty"] = "stop"
    """A question that the server will not answer (status 400): ``stop`` ends the evaluation and says which it was;
    ``empty`` counts it as an empty answer whose ``finish`` is ``refused``."""
    body: dict[str, Any] = Field(default_factory=dict)
    """Merged into every request; a key with null is left out of it."""

    @model_validator(mode="after")
    def _is_somewhere(self) -> Endpoint:
        if (self.url is None) == (self.role is None):
            raise ValueError("An endpoint is either a url or a role of the recipe. Give one of them.")
        if self.role is not None and (self.model or self.api_key_file):
            raise ValueError(f"The role {self.role!r} says its model and key itself. Leave model and api_key_file out.")
        return self


class Reader(Endpoint):
    """A language model that finds the answers in responses and says whether they are right."""

    max_tokens: int = Field(128, ge=1)
    """Of a reply."""


class Measure(Section):
    """How answers are measured, see ``eval/tasks``."""

    faithful: bool = False
    """Measure as the published scripts do, their faults included."""
    coordinates: Literal["pixel", "rel1000", "rel1"] = "pixel"
    """Units in which the models write boxes and points: Qwen2-VL and Qwen3-VL ``rel1000``, Qwen2.5-VL ``pixel``."""
    reader: Reader | None = None
    """Judges answers in place of rules, whose result is kept beside its own. None leaves it to rules."""


class Task(Data):
    """A file of problems to be answered."""

    limit: int | None = Field(None, ge=1)
    """Only the first so many problems."""
    rewards: Rewards | None = None
    """What is measured beside the task's own numbers. None is the role's ``rewards``, as far as they fit the kind."""
    measure: Measure | None = None
    """How this task is measured. None is the role's ``measure``."""


class Vllm(Section):
    """What vLLM may take, and how it is spread."""

    max_num_seqs: int = Field(256, ge=1)
    """Most answers generated at a time."""
    max_prompt_tokens: int = Field(8192, ge=1)
    """Longest prompt; a longer one is an error and never cut."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs one copy of the model is split over."""
    gpu_memory_utilization: float = Field(0.85, gt=0, lt=1)
    """Share of a GPU's memory it may take."""
    kv_cache_gb: float = Field(1.0, gt=0)
    """On CPUs: memory of its key-value cache."""


class Settings(Section):
    """Evaluation: models answer the problems of tasks, and the training's rewards measure the answers."""

    models: dict[str, str | Endpoint] = Field(min_length=1)
    """What to evaluate: a label, such as ``before`` or ``after``, and a Hugging Face folder or name, a URL, or an
    endpoint: ``{role: critic}``, ``{url: ..., model: ..., api_key_file: ...}``."""
    tasks: dict[str, Task] = Field(min_length=1)
    """On what: a task's name and its file of problems."""
    judge: str | None = None
    """The role that judges visual perception; it must be among the ``needs`` of this role. None measures the rest."""
    rewards: Rewards = DEFAULT_REWARDS
    """What is measured of an answer beside the task's own numbers; the weights play no part here."""
    measure: Measure = Measure()
    """How answers are measured."""
    format_prompt: str = FORMAT_PROMPT
    """Appended to every problem after a space. Must be that of the training."""
    prompt_template: str = "{problem}"
    """What the user says before ``format_prompt``; ``{problem}`` stands for the problem."""
    system_prompt: str = ""
    """What the system says first; empty leaves it to the model's chat template."""
    engine: Literal["hf", "vllm"] = "hf"
    """Of models that are not endpoints: ``hf`` is transformers' generate in batches, ``vllm`` vLLM in this process."""
    max_new_tokens: int = Field(4096, ge=1)
    """An answer that has not ended by then is cut off."""
    temperature: float = Field(0.0, ge=0)
    """0 always takes the likeliest token."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Of sampled answers: tokens outside the likeliest that make up this probability are never taken."""
    repetition_penalty: float = Field(1.0, gt=0)
    """Makes tokens less likely that have been there, prompt included. PR1 evaluates with 1.05; 1 changes nothing."""
    n: int = Field(1, ge=1)
    """Answers to each problem and seed, for pass@k. Above 1 the temperature must be too."""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    """Each answers every problem anew."""
    keep_special_tokens: bool = False
    """Leave special tokens in the text: Qwen2-VL writes boxes between ``<|box_start|>`` and ``<|box_end|>``."""
    batch: int = Field(32, ge=1)
    """``hf``: problems answered together. Changes memory and speed; answers only as far as sums round differently."""
    device: str = "auto"
    """``hf``: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes the first GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the model. ``auto`` is bfloat16 on a GPU and float32 on a CPU."""
    vllm: Vllm = Vllm()
    """vLLM's own."""
    workers: int | None = Field(None, ge=0)
    """Engines side by side, each a Ray actor. None is one for each GPU of the role, or each node without GPUs; where
    that is a single one it needs no Ray, like 0, which keeps it in this process."""
    start_timeout_s: float = Field(1800.0, gt=0)
    """Longest time until all engines have loaded a model."""
    answer_timeout_s: float = Field(3600.0, gt=0)
    """Longest time without any answer."""
    ray_start_timeout_s: float = Field(120.0, gt=0)
    """Longest wait until Ray runs on all nodes of the role."""

    @field_validator("models", mode="before")
    @classmethod
    def _address_is_an_endpoint(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {
            label: {"url": model} if isinstance(model, str) and model.startswith(("http://", "https://")) else model
            for label, model in given.items()
        }

    @model_validator(mode="after")
    def _names_are_folders(self) -> Settings:
        wrong = [name for name in (*self.models, *self.tasks) if not NAME.fullmatch(name)]
        if wrong:
            raise ValueError(
                f"{', '.join(map(repr, wrong))} cannot be a folder's name. "
                "Use letters, digits, '.', '_' and '-', beginning with a letter or digit."
            )
        return self

    @model_validator(mode="after")
    def _prompt_holds_the_problem(self) -> Settings:
        if self.prompt_template.count("{problem}") != 1:
            raise ValueError(f"prompt_template: {self.prompt_template!r} does not hold {{problem}} once. Put it in.")
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> Settings:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} has one of them twice. Name each once.")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"temperature: 0 answers a problem {self.samples} times the same. Raise it, or leave n and seeds out."
            )
        return self

    @property
    def samples(self) -> int:
        """Answers to each problem."""
        return self.n * len(self.seeds)

    def metrics(self, task: Task | None = None, kind: Kind = "math") -> Rewards:
        """Return which rewards are measured of a task's answers, visual perception among them if there is a judge.

        Rewards of the role are measured where they fit the kind of problem; those that a task names for itself always.
        """
        if task is not None and task.rewards is not None:
            return task.rewards
        strangers = {name: None for name, kinds in FITS.items() if kind not in kinds}
        rewards = self.rewards.model_copy(update=strangers)
        if self.judge is None or rewards.visual_perception is not None:
            return rewards
        return rewards.model_copy(update={"visual_perception": VisualPerception(weight=0.7, judge=self.judge)})

    def measure_of(self, task: str) -> Measure:
        """Return how a task is measured."""
        return self.tasks[task].measure or self.measure


def in_order(labels: Iterable[str]) -> list[str]:
    """Return labels as people compare them, ``before`` first.

    The order in the recipe does not survive: ``plan.json`` sorts its keys.
    """
    return sorted(labels, key=lambda label: label != FIRST)


def services(settings: Settings) -> dict[str, str]:
    """Return the roles that an evaluation asks, by the place of their name."""
    asked = {} if settings.judge is None else {"judge": settings.judge}
    asked |= settings.rewards.services("rewards")
    for name, task in settings.tasks.items():
        asked |= {} if task.rewards is None else task.rewards.services(f"tasks.{name}.rewards")
    readers = {"measure": settings.measure} | {f"tasks.{n}.measure": t.measure for n, t in settings.tasks.items()}
    for place, measure in readers.items():
        if measure is not None and measure.reader is not None and measure.reader.role is not None:
            asked[f"{place}.reader.role"] = measure.reader.role
    return asked | {
        f"models.{label}.role": model.role
        for label, model in settings.models.items()
        if isinstance(model, Endpoint) and model.role is not None
    }


def missing(settings: Settings) -> list[str]:
    """Return what is not there: the files of tasks and packages, one sentence each."""
    found = [
        sentence
        for name, task in settings.tasks.items()
        for sentence in absent(f"tasks.{name}.path", task.source, task.path)
    ]
    needed = {
        "engine": ("vllm", settings.engine == "vllm", "or use 'hf'"),
        "workers": ("ray", bool(settings.workers), "or set workers: 0"),
    }
    for place, (package, wanted, otherwise) in needed.items():
        if wanted and importlib.util.find_spec(package) is None:
            found.append(
                f"{place}: the package {package} is not installed. Install orchestrator[cpu] or [gpu], {otherwise}."
            )
    return found
