"""What the construction of annotated data may be told. Imports nothing heavy.

teacher: {url: https://host/v1, model: some-model, api_key_file: ~/.keys/some.key}     elsewhere
extractor: {service: extractor}                                                        a role of the same recipe
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs.construct.prompts import DISTIL, Against, Template
from jobs.data.settings import Data, absent
from jobs.rewards import judge_prompt
from orchestrator.errors import Problem
from orchestrator.rendezvous import PLACEHOLDER
from orchestrator.section import Section

# Neither a password nor a query: both would end in plan.json and in logs.
BASE_URL = re.compile(r"https?://[A-Za-z0-9_.:\[\]-]+(/[A-Za-z0-9_.~%/-]*)?")
OURS = {"model", "messages", "n", "stream", "max_tokens", "max_completion_tokens"}


class Endpoint(Section):
    """A model behind an OpenAI API: a service of this recipe, or one elsewhere."""

    service: str | None = None
    """A role of this recipe, which must be among the ``needs`` of this one. Its model and key come from it."""
    url: str | None = None
    """In place of ``service``: the base URL, in front of ``/chat/completions``."""
    model: str | None = None
    """With ``url``: the model to ask for."""
    api_key_file: str | None = None
    """With ``url``: the file that holds the key, readable by its owner alone (0600)."""
    max_in_flight: int = Field(64, ge=1)
    """Most requests at a time. How many are admitted below that adapts to what the server stands."""
    budget_tokens: int | None = Field(None, ge=1)
    """Most tokens that may be spent here, prompts and replies together, earlier attempts included."""
    attempts: int = Field(5, ge=1)
    """Requests for one answer. Those that met no server, or a busy one, do not count."""
    timeout_s: float = Field(600.0, gt=0)
    """Time for one answer. Long on purpose: what is given up may have been paid for."""
    pause_max_s: float = Field(60.0, ge=0)
    """Longest pause between two requests for one answer, whatever a busy server asks for."""
    outage_budget_s: float = Field(1800.0, ge=0)
    """How long a server that does not answer is waited for before the job saves and gives up."""
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the limit of a reply. Some newer models know the second name only."""
    body: dict[str, Any] = Field(default_factory=dict)
    """More fields of every request, such as ``{reasoning_effort: high}``; they go before ours, and null leaves one of
    ours out, such as ``{top_p: null}``. A part of what identifies a request."""

    @field_validator("url")
    @classmethod
    def _is_a_base_url(cls, given: str | None) -> str | None:
        if given is not None and not PLACEHOLDER.search(given) and not BASE_URL.fullmatch(given):
            raise ValueError(f"{given!r} is not the base URL of an OpenAI API. Write 'https://host:port/v1'.")
        return given.rstrip("/") if given else given

    @field_validator("body")
    @classmethod
    def _leaves_ours_alone(cls, given: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(OURS & set(given))
        if taken:
            raise ValueError(f"{', '.join(taken)} is set by the job itself. Remove it.")
        return given

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Endpoint:
        if (self.service is None) == (self.url is None):
            raise ValueError("An endpoint is either a service of the recipe or has a url. Write one of the two.")
        if self.url is not None and not self.model:
            raise ValueError("An endpoint with a url needs the name of its model. Add model.")
        if self.service is not None and (self.model or self.api_key_file):
            raise ValueError("A service's model and key come from its role. Remove model and api_key_file.")
        return self


class Distil(Section):
    """How the teacher is asked for solutions."""

    instruction: str = DISTIL
    """What follows every problem after a space."""
    system: str = ""
    """A system message; none if empty."""
    candidates: int = Field(4, ge=1, le=64)
    """Most solutions of one problem."""
    ask: Literal["until_right", "all"] = "until_right"
    """``until_right`` asks for the next only if the one before cannot be used; ``all`` asks for all at once, which
    costs more and takes fewer rounds: best for batch files."""
    temperature: float = Field(1.0, ge=0, le=2)
    """Of sampling."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Of sampling."""
    max_tokens: int = Field(8192, ge=1)
    """A solution that has not ended by then cannot be used."""
    seed: int | None = 0
    """Sent with candidate ``c`` as ``seed + c``. Null sends none, for servers that refuse it."""


class Extract(Section):
    """How the text model is asked for visual facts. The temperature is 0, and warmer when asked again."""

    template: Template = "full"
    """``full`` explains the task with examples; ``compact`` is one sentence, for a model trained on it."""
    max_tokens: int = Field(2048, ge=1)
    """A list that has not ended by then cannot be used."""
    tries: int = Field(2, ge=1)
    """How often one solution's facts are asked for until enough of them can be used."""
    seed: int | None = 0
    """Sent along; null sends none."""


class Facts(Section):
    """Which facts are kept."""

    least: int = Field(1, ge=1)
    """A solution with fewer facts cannot be used."""
    most: int = Field(20, ge=1)
    """Further facts of one solution are left out."""
    chars_min: int = Field(3, ge=1)
    """A shorter fact says nothing."""
    chars_max: int = Field(240, ge=1)
    """A longer one is not atomic."""
    words_max: int = Field(40, ge=1)
    """Nor is one of more words."""
    leak: Literal["strict", "stated", "off"] = "strict"
    """Which facts give the answer away: ``strict`` those that hold the answer's value, or speak of the answer;
    ``stated`` the latter only; ``off`` none."""


class Verify(Section):
    """Another model's opinion on every fact. Facts on which it does not agree often enough are left out."""

    endpoint: Endpoint
    """Who is asked. It must see images to check against them."""
    against: Against = "trajectory"
    """``trajectory`` asks whether the solution states the fact, ``image`` whether the image shows it."""
    template: judge_prompt.Template = "perception_r1"
    """Against the trajectory, how: the question is the visual perception reward's own."""
    votes: int = Field(1, ge=1)
    """How often one list of facts is asked about; all but the first with temperature 1."""
    agreement: float = Field(0.5, gt=0, le=1)
    """The share of votes that a fact needs."""
    max_tokens: int = Field(512, ge=1)
    """The reply is cut here; facts it did not come to are not confirmed."""


class Settings(Section):
    """Builds annotated data: distils solutions, keeps right ones, extracts and checks their visual facts."""

    data: Data
    """The problems, with their answers; annotations that they have are not looked at."""
    teacher: Endpoint
    """A vision-language model: writes solutions."""
    extractor: Endpoint
    """A text model: lists the visual facts of a solution."""
    distil: Distil = Distil()
    """How the teacher is asked."""
    extract: Extract = Extract()
    """How the extractor is asked."""
    facts: Facts = Facts()
    """Which facts are kept."""
    verify: Verify | None = None
    """Who else is asked about every fact; null asks nobody."""
    responses: str | None = None
    """The log of requests and responses. Left out: in the role's folder. A file outside the run lets another run, with
    another budget or other filters, go on from what was paid for."""
    answer_timeout_s: float = Field(5.0, gt=0)
    """Time to compare one answer; a solution whose answer takes longer is not used."""
    answer_processes: int = Field(2, ge=1)
    """Comparisons side by side."""
    when_spent: Literal["stop", "finish"] = "stop"
    """At the end of a budget: ``stop`` ends with an error and loses nothing; ``finish`` writes the rows there are."""
    unanswered_max: float = Field(0.01, ge=0, le=1)
    """The share of problems that may lack an answer from a server that failed. More is an error, and a resume asks
    for these again."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Settings:
        if self.facts.least > self.facts.most or self.facts.chars_min > self.facts.chars_max:
            raise ValueError("facts: least exceeds most, or chars_min exceeds chars_max. Swap them.")
        return self

    def endpoints(self) -> dict[str, Endpoint]:
        """Return every endpoint by the stage that asks it."""
        verify = {} if self.verify is None else {"verify": self.verify.endpoint}
        return {"distil": self.teacher, "extract": self.extractor} | verify


PLACES = {"distil": "teacher", "extract": "extractor", "verify": "verify.endpoint"}
"""Where a stage's endpoint stands in the settings."""


def services(settings: Settings) -> dict[str, str]:
    """Return the roles that this job asks, by the place of their name."""
    return {
        f"{PLACES[stage]}.service": endpoint.service
        for stage, endpoint in settings.endpoints().items()
        if endpoint.service is not None
    }


def key_problem(file: str) -> Problem | None:
    """Return what is wrong with a key's file, or None: only its owner may be able to read it."""
    path = Path(file).expanduser()
    try:
        status = path.stat()
    except OSError as error:
        return Problem(
            place="api_key_file",
            fact=f"{file} cannot be read: {error.strerror}.",
            way_out="Write the key into it: (umask 077; cat > FILE).",
        )
    if not stat.S_ISREG(status.st_mode):
        return Problem(place="api_key_file", fact=f"{file} is not a file.", way_out="Name the file that holds the key.")
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        return Problem(
            place="api_key_file",
            fact=f"{file} has mode {mode} and may be read by others.",
            way_out=f"Own it and run: chmod 600 {file}.",
        )
    return None


def missing(settings: Settings) -> list[Problem | str]:
    """Return what this machine lacks: the problems' file, keys."""
    found: list[Problem | str] = list(absent("data.path", settings.data.source, settings.data.path))
    for stage, endpoint in settings.endpoints().items():
        file = endpoint.api_key_file
        problem = key_problem(file) if file and not PLACEHOLDER.search(file) else None
        if problem is not None:
            place = f"{PLACES[stage]}.api_key_file"
            found.append(Problem(place=place, fact=problem.fact, way_out=problem.way_out))
    return found
