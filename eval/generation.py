"""What engines are asked and what they answer, and how a problem becomes a question.

An engine takes questions out of an ``Inbox`` whenever it has room and hands every answer over the moment it ends. It
knows nothing of tasks, files or other engines; ``eval.engines.pool`` deals questions out to several. Nothing here
imports torch.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from eval.settings import Settings
from jobs.data import Example, prompt

WEIGHTS = ("*.safetensors", "*.bin")
PROBLEM = "{problem}"

Key = tuple[str, int]
"""A problem's id and which of its answers, counted from 0."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One answer that is wanted.

    Attributes:
        key: Whose answer, and which of several.
        text: What the user says, ``<image>`` where an image goes.
        images: Encoded image files.
        system: What the system says before; empty leaves it to the model's own template.
        run_seed: The settings' seed.
        seed: Fixes every token of a sampled answer, whatever is sampled beside it.
    """

    key: Key
    text: str
    images: tuple[bytes, ...] = ()
    system: str = ""
    run_seed: int = 0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model wrote.

    Attributes:
        key: Of the question.
        text: Without special tokens, unless the settings keep them.
        tokens: How many were generated, the end token included.
        finish: ``stop`` if the model ended it, ``length`` if it was cut at the longest length, ``refused`` if a
            server would not answer.
        seconds: From the engine's taking the question up to the answer's end.
    """

    key: Key
    text: str
    tokens: int
    finish: str
    seconds: float


class Inbox:
    """Questions on their way to one engine, between threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Question] = deque()
        self._stopped = False

    def put(self, questions: Iterable[Question]) -> None:
        """Add questions behind those that wait."""
        with self._changed:
            self._waiting.extend(questions)
            self._changed.notify_all()

    def stop(self) -> None:
        """Tell the engine to drop everything and return."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def stopped(self) -> bool:
        """Whether the engine should drop everything."""
        return self._stopped

    def take(self, most: int, *, wait: bool) -> list[Question]:
        """Return up to ``most`` questions; none if none waits, or it was stopped."""
        with self._changed:
            while wait and not (self._waiting or self._stopped):
                self._changed.wait()
            if self._stopped:
                return []
            return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]


class Engine(Protocol):
    """A model in this process.

    Attributes:
        room: Questions it may hold at a time, those that wait in its inbox included.
        about: What the summary says of it: device, dtype, the weights' revision.
    """

    room: int
    about: Mapping[str, Any]

    def answer(self, inbox: Inbox, emit: Callable[[Answer], None]) -> None:
        """Answer what the inbox holds, each handed over as it ends, until the inbox is stopped.

        Raises:
            InputError: A question cannot be answered: its images do not fit its text, or it is too long.
        """


def questions(settings: Settings, examples: Iterable[Example]) -> list[Question]:
    """Return every question of a task: the samples of each problem together, problems in the file's order."""
    return [
        Question(
            key=(example.id, seed_index * settings.n + k),
            text=text(settings, example),
            images=example.images,
            system=settings.system_prompt,
            run_seed=seed,
            seed=_seed(seed, k, example.id),
        )
        for example in examples
        for seed_index, seed in enumerate(settings.seeds)
        for k in range(settings.n)
    ]


def text(settings: Settings, example: Example) -> str:
    """Return what the user says: the problem in the template, a space and the format prompt."""
    # Replaced, not formatted: braces in a problem or a template are braces.
    said = settings.prompt_template.replace(PROBLEM, example.problem)
    return prompt(replace(example, problem=said), settings.format_prompt)


def weights_sha256(model: str) -> str | None:
    """Return one hash of all weight files in a folder, by name and content; None for a name on the hub."""
    files = sorted(path for pattern in WEIGHTS for path in Path(model).glob(pattern))
    if not files:
        return None
    listing = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            listing.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return listing.hexdigest()


def problems_sha256(asked: Sequence[Question], answers: Sequence[str]) -> str:
    """Return one hash of what is asked and what is right: the same for the same problems in the same order."""
    listing = hashlib.sha256()
    for question, answer in zip(asked, answers, strict=True):
        pictures = " ".join(hashlib.sha256(image).hexdigest() for image in question.images)
        listing.update(repr((question.key, question.system, question.text, pictures, answer)).encode())
    return listing.hexdigest()


def _seed(seed: int, k: int, example: str) -> int:
    digest = hashlib.sha256(f"{seed} {k} {example}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1
