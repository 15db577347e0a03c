"""What one step collects: responses in groups, with what they earned; and the same as JSON records.

Numbers come back from the records as they went in, to the bit, so a step made from the journal is the
step that would have been made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from jobs.data import Example
from jobs.grpo.prompts import Cursor
from jobs.grpo.rollout import Sample
from jobs.rewards.scorer import Score
from jobs.rewards.verdict import Verdict

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A response and what it earned."""

    sample: Sample
    score: Score


@dataclass(frozen=True, kw_only=True)
class Group:
    """All responses to one prompt, in order of their index."""

    example: Example
    prompt: str
    scored: tuple[Scored, ...]

    def totals(self) -> list[float]:
        """Return what each response earned; NaN is a verdict that never came."""
        return [scored.score.total for scored in self.scored]


@dataclass(frozen=True, kw_only=True)
class Collected:
    """One step's groups and what it took to get them.

    Attributes:
        groups: What the step is made from.
        cursor: The next batch of prompts.
        generate_s: From the first prompt to the last token, seconds.
        wait_after_gen_s: From there to the last verdict, seconds: judge time that nothing hid.
        refills: Rounds of prompts drawn beyond the first.
        dropped: Groups without spread that refills were drawn for.
        metrics: Of the rewards, over the collection.
    """

    groups: tuple[Group, ...]
    cursor: Cursor
    generate_s: float = 0.0
    wait_after_gen_s: float = 0.0
    refills: int = 0
    dropped: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


def to_records(collected: Collected) -> list[Record]:
    """Return the collection as JSON objects: one of itself, then one for each group."""
    whole = asdict(replace(collected, groups=())) | {"groups": len(collected.groups)}
    return [whole, *(_group_record(group) for group in collected.groups)]


def from_records(records: Sequence[Record], examples: Mapping[str, Example]) -> Collected | None:
    """Return the collection, or None if it was made from other examples than these."""
    whole, *rows = records
    if any(row["example"] not in examples for row in rows):
        return None
    groups = tuple(_group(row, examples[row["example"]]) for row in rows)
    return Collected(**whole | {"groups": groups, "cursor": Cursor(**whole["cursor"])})


def _group_record(group: Group) -> Record:
    return {
        "example": group.example.id,
        "prompt": group.prompt,
        "scored": [{"sample": asdict(s.sample), "score": asdict(s.score)} for s in group.scored],
    }


def _group(record: Record, example: Example) -> Group:
    scored = tuple(Scored(sample=_sample(row["sample"]), score=_score(row["score"])) for row in record["scored"])
    return Group(example=example, prompt=record["prompt"], scored=scored)


def _sample(record: Record) -> Sample:
    return Sample(**record | {"tokens": tuple(record["tokens"]), "logprobs": tuple(record["logprobs"])})


def _score(record: Record) -> Score:
    judge = record["judge"]
    verdict = None if judge is None else Verdict(**judge | {"scores": tuple(judge["scores"])})
    return Score(**record | {"left_out": tuple(record["left_out"]), "judge": verdict})
