"""What an evaluation role may be told. Light: read by ``jobs.check`` before anything is submitted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from eval.record import FIRST
from jobs.data import FORMAT_PROMPT
from jobs.data.settings import Data, absent
from jobs.rewards.settings import Accuracy, Format, Repetition, Rewards, VisualPerception
from orchestrator.run_directory import NAME
from orchestrator.section import Section


class Task(Data):
    """A file of problems to be answered."""

    limit: int | None = Field(None, ge=1)
    """Only the first so many problems."""


class Settings(Section):
    """Evaluation: models answer the problems of tasks, and the training's rewards measure the answers."""

    models: dict[str, str] = Field(min_length=1)
    """What to evaluate: a label, such as ``before`` or ``after``, and a Hugging Face folder or name."""
    tasks: dict[str, Task] = Field(min_length=1)
    """On what: a task's name and its file of problems."""
    judge: str | None = None
    """The role that judges visual perception; it must be among the ``needs`` of this role. None measures the rest."""
    rewards: Rewards = Rewards(
        accuracy=Accuracy(weight=0.9), format=Format(weight=0.1), repetition=Repetition(weight=1.0)
    )
    """What is measured of an answer; the weights play no part here."""
    format_prompt: str = FORMAT_PROMPT
    """Appended to every problem after a space. Must be that of the training."""
    engine: Literal["hf"] = "hf"
    """``hf`` is transformers' generate, one process, one device."""
    max_new_tokens: int = Field(4096, ge=1)
    """An answer that has not ended by then is cut off."""
    batch: int = Field(32, ge=1)
    """Problems answered together. Changes memory and speed; answers only as far as sums round differently."""
    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes the first GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the model. ``auto`` is bfloat16 on a GPU and float32 on a CPU."""

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
    def _accuracy_is_measured(self) -> Settings:
        if self.rewards.accuracy is None:
            raise ValueError("rewards: accuracy is missing, without which nothing can be compared. Name it.")
        return self

    def metrics(self) -> Rewards:
        """Return what is measured: the rewards, and visual perception if there is a judge."""
        if self.judge is None or self.rewards.visual_perception is not None:
            return self.rewards
        judged = VisualPerception(weight=0.7, judge=self.judge)
        return self.rewards.model_copy(update={"visual_perception": judged})


def in_order(labels: Iterable[str]) -> list[str]:
    """Return labels as people compare them, ``before`` first.

    The order in the recipe does not survive: ``plan.json`` sorts its keys.
    """
    return sorted(labels, key=lambda label: label != FIRST)


def services(settings: Settings) -> dict[str, str]:
    """Return the roles that an evaluation asks, by the place of their name."""
    judge = {} if settings.judge is None else {"judge": settings.judge}
    return judge | settings.rewards.services("rewards")


def missing(settings: Settings) -> list[str]:
    """Return the tasks whose files are not there, one sentence each."""
    return [
        sentence
        for name, task in settings.tasks.items()
        for sentence in absent(f"tasks.{name}.path", task.source, task.path)
    ]
