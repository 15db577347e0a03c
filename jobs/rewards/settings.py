"""What a recipe says about rewards. Imports nothing heavy; the checks run on the login node.

    rewards:
      accuracy: 0.9                                      a number is the weight
      visual_perception: {weight: 0.7, judge: judge}     or a mapping, where there is more to say
      grounding: {weight: 1.0, coordinates: rel1000}     boxes say in which units the model writes them
      my_project.rewards:brevity: 0.1                    a function of your own

The reward of a response is the weighted sum of the parts named, without clipping.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs.rewards.judge_prompt import Template
from orchestrator.section import Section

Coordinates = Literal["pixel", "rel1000", "rel1"]
"""Units in which a model writes boxes: pixels of the image that it sees, thousandths of its sides, or shares of 1."""
Matching = Literal["hungarian", "in_order"]

OWN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Weighted(Section):
    """A reward of which there is nothing to say but its weight."""

    weight: float
    """What one point of this part adds to the total. 0 computes the part and leaves it out of the total."""


class Accuracy(Weighted):
    """1 if the answer is right, else 0. Perception-R1 weighs it 0.9."""

    timeout_s: float = Field(5.0, gt=0)
    """Time for one comparison. A checker that needs longer is killed, and the part is missing."""
    processes: int = Field(1, ge=1)
    """Checkers that run side by side."""


class Format(Weighted):
    """1 if the response has the required form, else 0. Perception-R1 weighs it 0.1."""

    perception: bool = False
    """Also require ``<perception>`` before ``<think>``."""


class Repetition(Weighted):
    """0 for a response that never repeats itself, down to ``max_penalty``."""

    ngram: int = Field(20, ge=1)
    """How many words in a row make a repetition."""
    max_penalty: float = Field(-2.0, le=0)
    """The value approached when every n-gram is the same."""


class Thinking(Weighted):
    """1 if the response is ``<think>..</think><answer>..</answer>`` and nothing else, else 0."""


class Grounding(Weighted):
    """The overlap of the response's first box with the true one, 0 to 1. PR1 weighs it 1."""

    coordinates: Coordinates = "rel1000"
    """The units in which the model writes boxes."""
    power: Literal[1, 2] = 2
    """2 squares the overlap, as PR1's code does; 1 is what its paper says."""


class GroundingFormat(Weighted):
    """1 if the response is a name and one box between Qwen's tokens, and nothing else, else 0. PR1 weighs it 1.

    Needs ``engine.keep_special_tokens: true``.
    """


class Counting(Weighted):
    """The smaller number over the larger, times how near the points are, 0 to 1. PR1 weighs it 1."""

    coordinates: Coordinates = "rel1000"
    """The units in which the model writes boxes or points."""
    writes: Literal["boxes", "points"] = "boxes"
    """What two pairs in a row, ``(10,20),(30,40)``, are: the corners of one box, or two points."""
    gate: bool = False
    """Give 0 to a response without PR1's form: a name, then boxes with nothing between, in Qwen's tokens.

    Needs ``engine.keep_special_tokens: true``.
    """
    matching: Matching = "hungarian"
    """How points are paired with the true ones; ``in_order`` is the ablation without matching."""


class Ocr(Weighted):
    """1 less the edit distance to the true text over the longer one's length, 0 to 1."""


class Detection(Weighted):
    """Names and boxes in JSON against all things of the image, 0 to 3 with the scales below. PR1 weighs it 1."""

    coordinates: Coordinates = "pixel"
    """The units in which the model writes boxes."""
    classes: tuple[str, ...] = ()
    """The names there are; none given are COCO's 80. An entry with another name is malformed."""
    matching: Matching = "hungarian"
    """How boxes are paired with the true ones; ``in_order`` is the ablation without matching."""
    iou_above: float = Field(0.5, ge=0, lt=1)
    """A pair counts if its boxes overlap more than this."""
    size_weights: bool = False
    """Let small and medium things (under 32 x 32 and 96 x 96 pixels) weigh three and two times a large one."""
    format_scale: float = Field(0.25, ge=0)
    """What well-formed entries add."""
    f1_scale: float = Field(0.75, ge=0)
    """What finding everything and nothing else adds."""
    label_scale: float = Field(1.0, ge=0)
    """What right names add."""
    iou_scale: float = Field(1.0, ge=0)
    """What overlap adds."""
    penalty_scale: float = Field(0.0, ge=0)
    """Taken off for superfluous boxes, and again for missed things. PR1's paper has 0.5, its script 0."""
    coverage_scale: float = Field(0.0, ge=0)
    """What naming each kind of thing often enough adds, wherever the boxes are."""


class VisualPerception(Weighted):
    """The share of the visual facts that a judge finds in the response. Perception-R1 weighs it 0.7."""

    judge_sees: Literal["text", "image"] = "text"
    """``text``: the judge compares the response with the problem's annotations.

    ``image``: it gets the image and the response, and says how much of what the response states about the
    image is so. That takes a judge that sees, and no annotations.
    """

    judge: str = Field("judge", min_length=1)
    """The role that judges. It must be among the ``needs`` of this role."""
    template: Template = "perception_r1"
    """How the judge is asked: see ``jobs/rewards/judge_prompt.py``."""
    max_reply_tokens: int = Field(512, ge=1)
    """The judge's reply is cut here; facts it did not come to count as not found."""
    attempts: int = Field(2, ge=1)
    """Requests for one verdict before it is missing. Requests that met no judge at all do not count."""
    deadline_min_s: float = Field(10.0, gt=0)
    """A request is given three times the 95th percentile of the latest latencies, but at least this."""
    deadline_max_s: float = Field(60.0, gt=0)
    """... and at most this, which is also what the first requests are given."""
    hedge: bool = False
    """Ask a second time when an answer takes longer than the running 95th percentile; the first answer counts.

    Only while the judge answers others and has room. It costs no attempt.
    """
    verdict_s: float = Field(300.0, gt=0)
    """Longest time for one verdict, attempts and pauses together; standing in line and an outage do not count."""
    retry_after_max_s: float = Field(30.0, ge=0)
    """Longest pause that a busy judge may ask for."""
    max_in_flight: int = Field(512, ge=1)
    """Most requests at a time. How many are admitted below that adapts to what the judge stands."""
    outage_budget_s: float = Field(1800.0, ge=0)
    """How long training waits for a judge that does not answer, before it saves and gives up."""
    seed: int = 0
    """Sent with every request. The temperature is always 0."""

    @model_validator(mode="after")
    def _deadlines_are_ordered(self) -> VisualPerception:
        if self.deadline_min_s > self.deadline_max_s:
            raise ValueError(
                f"deadline_min_s={self.deadline_min_s:g} exceeds deadline_max_s={self.deadline_max_s:g}. "
                "Raise the second or lower the first."
            )
        return self


BUILT_IN = (
    "accuracy",
    "format",
    "visual_perception",
    "repetition",
    "thinking",
    "grounding",
    "grounding_format",
    "counting",
    "ocr",
    "detection",
)


class Rewards(Section):
    """What a response earns: the weighted sum of these parts."""

    accuracy: Accuracy | None = None
    """Is the answer right?"""
    format: Format | None = None
    """Has the response the required form?"""
    visual_perception: VisualPerception | None = None
    """Does it state what is to be seen in the image?"""
    repetition: Repetition | None = None
    """A penalty on words that repeat."""
    thinking: Thinking | None = None
    """Is it thinking and an answer?"""
    grounding: Grounding | None = None
    """Is the box where the thing is?"""
    grounding_format: GroundingFormat | None = None
    """Is it written as Qwen writes boxes?"""
    counting: Counting | None = None
    """Are as many things pointed at as there are, and at the right places?"""
    ocr: Ocr | None = None
    """Is it the text of the page?"""
    detection: Detection | None = None
    """Are all things found, named and boxed?"""
    own: dict[str, Weighted] = Field(default_factory=dict)
    """Functions of your own, ``package.module:function``. Written beside the others, not under ``own``."""
    faithful: bool = False
    """Reproduce the published code of either Perception-R1 where ours differs on purpose. For comparisons only."""

    @model_validator(mode="before")
    @classmethod
    def _gather_own(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        own = {name: value for name, value in given.items() if isinstance(name, str) and OWN.fullmatch(name)}
        rest = {name: value for name, value in given.items() if name not in own}
        strangers = [str(name) for name in rest if name not in cls.model_fields]
        if strangers:
            raise ValueError(" ".join(map(_stranger, strangers)))
        return {**rest, "own": {**(rest.get("own") or {}), **own}} if own else rest

    @field_validator(*BUILT_IN, mode="before")
    @classmethod
    def _number_is_weight(cls, given: Any) -> Any:
        return _weight(given)

    @field_validator("own", mode="before")
    @classmethod
    def _numbers_are_weights(cls, given: Any) -> Any:
        return {name: _weight(value) for name, value in given.items()} if isinstance(given, dict) else given

    def parts(self) -> dict[str, Weighted]:
        """Return the settings of every reward that the recipe names, in a fixed order."""
        built_in = {name: getattr(self, name) for name in names()}
        return {name: part for name, part in built_in.items() if part is not None} | self.own

    def weights(self) -> dict[str, float]:
        """Return the weight of every reward that the recipe names."""
        return {name: part.weight for name, part in self.parts().items()}

    def reads_special_tokens(self) -> str | None:
        """Return the first reward that earns nothing without the model's special tokens; None if there is none."""
        if self.grounding_format is not None:
            return "grounding_format"
        return "counting.gate" if self.counting is not None and self.counting.gate else None

    def services(self, place: str) -> dict[str, str]:
        """Return the roles that rewards ask, by the place of their name; ``place`` is that of the rewards."""
        if self.visual_perception is None:
            return {}
        return {f"{place}.visual_perception.judge": self.visual_perception.judge}


def names() -> tuple[str, ...]:
    """Return the names of the built-in rewards."""
    return BUILT_IN


def _weight(given: Any) -> Any:
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    return {"weight": given} if is_number else given


def _stranger(name: str) -> str:
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"There is no reward {name!r}.{hint} Rewards are {', '.join(names())}; "
        "a function of your own is written 'package.module:function'."
    )
