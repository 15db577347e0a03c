"""Every rollout of a run, packed for a page: a table of numbers, and the texts in blocks that are opened on demand.

    index            columns of numbers, one value a rollout; ids and first words of the problems
    texts-<n>        of some rollouts: response, verdict, what was drawn
    problems-<n>     of some problems: prompt, images, answer, facts, truth
    image-<n>        an image as a data URI

All but the images are JSON, deflated and in base64: the browser inflates what somebody looks at. Nothing here is
HTML, so nothing that a model wrote can become part of the page.
"""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval import counting, facts, grounding
from eval.record import Row, json_lines, number
from eval.report import drawing, pictures
from eval.report.drawing import Writing
from eval.report.pictures import Picture
from eval.target import Target
from orchestrator.run_directory import RunDirectory

PAGE_BYTES = 56_000_000
"""Most of a page; what is left of 60 MB is for everything that is no rollout."""
TEXT_BYTES_MAX = 40_000_000
BLOCK = 100
"""Rollouts, or problems, that are inflated together."""
LEVEL = 6
PREVIEW = 90
ABSENT = False
"""In a column of reward parts: the part does not apply. None is a part that is missing."""
OVERLAP = 0.5
"""A box that overlaps the true one at least so much is right, as grounding counts it."""


@dataclass(kw_only=True)
class Table:
    """Columns of numbers with one value a rollout, and what is said of all of them.

    Attributes:
        rollouts: How many the log has.
        every: One group of so many is here; 1 is all.
        step: Of each rollout.
        problem: Its number in ``ids``.
        sample: Its number in its group.
        total: Its reward, None if it has none.
        advantage: None if it has none.
        tokens: Of the response.
        cut: Whether it was cut at the longest length, 0 or 1.
        outcome: 1 right, 0 wrong, -1 not known.
        parts: A column for every reward: None where it is missing, ``ABSENT`` where it does not apply.
        ids: Of the problems.
        previews: Their first words.
        kinds: What they are about.
    """

    rollouts: int = 0
    every: int = 1
    step: list[int] = field(default_factory=list)
    problem: list[int] = field(default_factory=list)
    sample: list[int] = field(default_factory=list)
    total: list[float | None] = field(default_factory=list)
    advantage: list[float | None] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    outcome: list[int] = field(default_factory=list)
    parts: dict[str, list[Any]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    previews: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What the page embeds.

    Attributes:
        table: The numbers.
        blocks: Packed JSON by name: ``index``, ``texts-0``, ``problems-0``.
        images: Data URIs, in the order of their numbers; empty where an image is not there.
        images_left_out: How many images found no room or were not to be read.
    """

    table: Table
    blocks: Mapping[str, str]
    images: Sequence[str]
    images_left_out: int

    @property
    def size_bytes(self) -> int:
        """Bytes that this takes in the page."""
        return sum(map(len, self.blocks.values())) + sum(map(len, self.images))


def pack(run: RunDirectory, plan: Row, page_bytes: int = PAGE_BYTES) -> Packed:
    """Return all rollouts of a run, or, where they are too many for one page, every n-th group of them.

    Responses are never cut; images are made smaller before anything is left out.

    Args:
        run: Whose ``rollouts.jsonl`` is read, once.
        plan: Of the run; tells the weights of the rewards and the units that the model writes.
        page_bytes: Most bytes that the result takes.
    """
    texts_max = min(TEXT_BYTES_MAX, page_bytes * 3 // 4)
    every, log = 1, run.rollouts
    while True:
        packer = _read(log, drawing.writing(plan), every)
        blocks = packer.blocks({"weights": weights(plan), "every": every})
        size = sum(map(len, blocks.values()))
        if size <= texts_max or len(packer.table.step) <= BLOCK:
            break
        every = math.ceil(every * max(1.2, 1.05 * size / texts_max))
    images = pictures.load(run, list(packer.images), (page_bytes - size) * 3 // 4)
    return Packed(
        table=packer.table,
        blocks=blocks,
        images=[picture.uri if isinstance(picture, Picture) else "" for picture in images],
        images_left_out=sum(picture is None for picture in images),
    )


def weights(plan: Row) -> dict[str, float]:
    """Return what one point of each reward adds to the total, as far as the plan says so."""
    for role in plan.get("roles", ()):
        rewards = (role.get("settings") or {}).get("rewards")
        if role.get("job") == "grpo" and isinstance(rewards, Mapping):
            given = {**rewards, **(rewards.get("own") or {})}
            known = {name: number(v.get("weight") if isinstance(v, Mapping) else v) for name, v in given.items()}
            return {name: weight for name, weight in known.items() if weight == weight}
    return {}


def common_end(prompts: Sequence[str]) -> str:
    """Return the whole sentences that all prompts end with, so that a page can say them softly.

    Nothing for fewer than two different prompts, of which everything would be common.
    """
    if len(set(prompts)) < 2:
        return ""
    backwards = [prompt[::-1] for prompt in prompts]
    first, last = min(backwards), max(backwards)  # in sorted order these two differ earliest
    same = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    sentence = re.search(r"[.?!:]\s+(?=\S)", end := first[:same][::-1])
    return end[sentence.end() :] if sentence else ""


def _read(log: Path, writing: Mapping[str, Writing], every: int) -> _Packer:
    packer = _Packer(writing)
    groups: dict[tuple[int, str], int] = {}
    for _, row in json_lines(log):
        packer.table.rollouts += 1
        group = groups.setdefault((_whole(row.get("step")), str(row.get("id", ""))), len(groups))
        if group % every == 0:
            packer.add(row)
    packer.table.every = every
    return packer


class _Packer:
    """Takes rows one after another and keeps only numbers and deflated text of them."""

    def __init__(self, writing: Mapping[str, Writing]) -> None:
        self.table = Table()
        self.images: dict[str, int] = {}
        self._writing = writing
        self._problems: dict[str, int] = {}
        self._prompts: list[str] = []
        self._places: dict[tuple[int, str, int], int] = {}
        self._texts, self._statements = _Blocks("texts"), _Blocks("problems")
        self._again = 0

    def add(self, row: Row) -> None:
        """Add one rollout. One that a restarted trainer made again takes the place of the first."""
        key = (_whole(row.get("step")), str(row.get("id", "")), _whole(row.get("sample")))
        target = _target(row)
        how = self._writing.get(str(row.get("kind"))) or Writing(coordinates=target.space.system if target else "pixel")
        text, numbers = _text(row, target, how), self._numbers(row, target, how)
        if key in self._places:
            place = self._places[key]
            self._texts.replace(place, text)
            self._put(numbers, place)
            self._again += 1
            return
        self._places[key] = len(self._places)
        self._texts.append(text)
        self._put(numbers, None)

    def blocks(self, more: Mapping[str, Any]) -> dict[str, str]:
        """Return everything packed, by name; the index with ``more`` in it."""
        table = self.table
        table.rollouts -= self._again
        index = {name: column for name, column in vars(table).items() if name != "parts"}
        index |= {"parts": list(table.parts.values()), "names": list(table.parts), "block": BLOCK, **more}
        index["instruction"] = common_end(self._prompts)
        return {"index": _packed(index), **self._texts.finish(), **self._statements.finish()}

    def _numbers(self, row: Row, target: Target | None, how: Writing) -> dict[str, Any]:
        rewards = row.get("rewards") or {}
        return {
            "step": _whole(row.get("step")),
            "problem": self._problem(row, target),
            "sample": _whole(row.get("sample")),
            "total": _rounded(row.get("total")),
            "advantage": _rounded(row.get("advantage")),
            "tokens": _tokens(row),
            "cut": int(row.get("finish") == "length"),
            "outcome": _outcome(row, rewards, target, how),
            "parts": {str(name): _rounded(value) for name, value in rewards.items()},
        }

    def _put(self, numbers: dict[str, Any], place: int | None) -> None:
        parts, columns = numbers.pop("parts"), self.table.parts
        count = len(self.table.step) + (place is None)
        for name in parts:
            columns.setdefault(name, [ABSENT] * (count - 1 if place is None else count))
        for column, value in (
            *((getattr(self.table, name), value) for name, value in numbers.items()),
            *((column, parts.get(name, ABSENT)) for name, column in columns.items()),
        ):
            if place is None:
                column.append(value)
            else:
                column[place] = value

    def _problem(self, row: Row, target: Target | None) -> int:
        """Return the problem's number. The same id with another image or truth, as after augmentation, is another."""
        images = tuple(reference for reference in row.get("images") or () if isinstance(reference, str))
        key = (row.get("id"), row.get("prompt"), images, row.get("answer"), row.get("visual_key_info"), target)
        name = repr(key)
        if name not in self._problems:
            self._problems[name] = len(self._problems)
            self._add_problem(row, images, target)
        return self._problems[name]

    def _add_problem(self, row: Row, images: Sequence[str], target: Target | None) -> None:
        prompt = str(row.get("prompt", "")).replace("<image>", "").strip()
        info = row.get("visual_key_info")
        self._statements.append(
            [
                prompt,
                [self.images.setdefault(reference, len(self.images)) for reference in images],
                str(row.get("answer", "")),
                list(facts.numbered(info).values()) if isinstance(info, str) else [],
                drawing.truth(target) if target else {},
                [target.space.width_px, target.space.height_px] if target else [],
            ]
        )
        self._prompts.append(prompt)
        self.table.ids.append(str(row.get("id", "")))
        self.table.previews.append(" ".join(prompt[: 3 * PREVIEW].split())[:PREVIEW])
        self.table.kinds.append(str(row.get("kind") or "math"))


class _Blocks:
    """Rows of JSON, packed a block at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._packed: list[str] = []
        self._open: list[Any] = []

    def append(self, row: Any) -> None:
        self._open.append(row)
        if len(self._open) == BLOCK:
            self._packed.append(_packed(self._open))
            self._open = []

    def replace(self, place: int, row: Any) -> None:
        block, within = divmod(place, BLOCK)
        if block == len(self._packed):
            self._open[within] = row
            return
        rows = json.loads(zlib.decompress(base64.b64decode(self._packed[block])))
        rows[within] = row
        self._packed[block] = _packed(rows)

    def finish(self) -> dict[str, str]:
        packed = [*self._packed, _packed(self._open)] if self._open else self._packed
        return {f"{self._name}-{number}": text for number, text in enumerate(packed)}


def _packed(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), LEVEL)).decode()


def _text(row: Row, target: Target | None, how: Writing) -> list[Any]:
    """Return what is read of one rollout: response, judge, and the shapes that it states."""
    response, judge = str(row.get("response", "")), row.get("judge")
    shapes = drawing.stated(response, target, str(row.get("kind", "")), how) if target else {}
    return [response, _judged(row, judge) if isinstance(judge, Mapping) else None, shapes]


def _judged(row: Row, judge: Row) -> list[Any]:
    """Return the reply, a score for every fact, why there is none, seconds, whether from the cache, attempts."""
    info, reply = row.get("visual_key_info"), judge.get("reply")
    asked = list(facts.numbered(info)) if isinstance(info, str) else []
    reading = facts.read(reply, asked) if asked and isinstance(reply, str) and not judge.get("missing") else None
    return [
        str(reply or ""),
        [round(score, 3) for score in reading.scores] if reading else [],
        str(judge.get("missing") or ""),
        _rounded(judge.get("latency_s")),
        int(bool(judge.get("cached"))),
        _whole(judge.get("attempts")),
    ]


def _target(row: Row) -> Target | None:
    given = row.get("target")
    if not isinstance(given, Mapping):
        return None
    try:
        return Target.from_json(given)
    except ValueError:
        return None


def _outcome(row: Row, rewards: Row, target: Target | None, how: Writing) -> int:
    """Return 1 for right, 0 for wrong, -1 where that is not known or there is no such thing."""
    if "accuracy" in rewards:
        accuracy = number(rewards["accuracy"])
        return -1 if math.isnan(accuracy) else int(accuracy > 0)
    response, kind = str(row.get("response", "")), row.get("kind")
    if target and kind == "grounding":
        return int(grounding.iou_of(response, target, how.coordinates) >= OVERLAP)
    if target and kind == "counting":
        return int(counting.score(response, target, how.coordinates, writes=how.writes).exact)
    return -1


def _rounded(value: Any) -> float | None:
    found = number(value)
    return float(f"{found:.4g}") if math.isfinite(found) else None


def _whole(value: Any) -> int:
    found = number(value)
    return int(found) if math.isfinite(found) else 0


def _tokens(row: Row) -> int:
    tokens = row.get("tokens")
    return len(tokens) if isinstance(tokens, list) else _whole(tokens)
