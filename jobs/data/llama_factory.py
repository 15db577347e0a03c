"""LLaMA-Factory's ``dataset_info.json``: alpaca and sharegpt, with the columns and tags that it names.

The path is that file or its folder; ``dataset`` says which entry if there are several. An example is
one exchange: a row of several is an error, for there is no one answer to it. ``ranking`` data answer
with what was chosen; a system prompt and what was rejected are in ``meta``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.data import Example, gather, images, literal, rows, truths
from jobs.data.rows import Row
from jobs.data.settings import HOW_TO_GET, Options
from orchestrator.errors import InputError, NotFound, nearest

INFO = "dataset_info.json"
SUFFIXES = [".json", ".jsonl", ".csv", ".parquet"]
COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "messages": "conversations",
    "images": "images",
}
TAGS = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt", "system_tag": "system"}
ELSEWHERE = ("hf_hub_url", "ms_hub_url", "script_url", "cloud_file_name")


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What an entry of ``dataset_info.json`` says of its rows."""

    sharegpt: bool
    ranking: bool
    columns: Mapping[str, str]
    tags: Mapping[str, str]


def load(path: Path, options: Options = Options()) -> list[Example]:  # noqa: B008  # frozen
    """Return every row of one data set. See ``jobs.data.gather.load`` for what is raised."""
    info = path / INFO if path.is_dir() else path
    if not info.is_file():
        raise NotFound(f"{info}: no such file. {HOW_TO_GET['llama_factory']}")
    name, entry = _entry(info, options.dataset)
    file = _file(info, name, entry)
    [folder] = rows.folders(options.images or str(info.parent), [file])
    shape = _Shape(
        sharegpt=entry.get("formatting", "alpaca") == "sharegpt",
        ranking=bool(entry.get("ranking")),
        columns={**COLUMNS, **(entry.get("columns") or {})},
        tags={**TAGS, **(entry.get("tags") or {})},
    )
    found = rows.read(file, folder, options.take)
    return gather.examples(file, options, found, lambda row, chosen: _example(row, chosen, shape))


def _entry(info: Path, name: str | None) -> tuple[str, Mapping[str, Any]]:
    try:
        entries = json.loads(rows.text_of(info))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{info}: not JSON: {error}.") from None
    if not isinstance(entries, dict) or not entries or not all(isinstance(entry, dict) for entry in entries.values()):
        raise InputError(f"{info}: Expected an object that describes data sets by name.")
    if name is None and len(entries) > 1:
        raise InputError(f"{info}: Name one of its data sets in 'dataset': {', '.join(sorted(entries))}.")
    name = name if name is not None else next(iter(entries))
    if name not in entries:
        raise InputError(f"{info}: There is no data set {name!r}. {nearest(name, entries, 'data sets')}")
    return name, entries[name]


def _file(info: Path, name: str, entry: Mapping[str, Any]) -> Path:
    away = next((key for key in ELSEWHERE if key in entry), None)
    if "file_name" not in entry:
        raise InputError(
            f"{info}: {name!r} has no 'file_name'{f', but {away!r}: nothing is downloaded' if away else ''}. "
            "Download it and name its file in 'file_name'."
        )
    return rows.files(info.parent / str(entry["file_name"]), "llama_factory", SUFFIXES)[0]


def _example(row: Row, options: Options, shape: _Shape) -> Example:
    question, given, meta = _sharegpt(row, shape) if shape.sharegpt else _alpaca(row, shape)
    listed = row.values.get(shape.columns["images"]) or []
    pictures = gather.pictures(row, listed) if listed else []
    kind = options.kind or "math"
    truth = None
    if kind == "grounding":
        if not pictures or options.coordinates is None:
            raise ValueError("Boxes need an image and 'coordinates': pixel, rel1000 or rel1.")
        box = literal.box(given)
        truth = truths.target(kind, system=options.coordinates, size_px=images.size(pictures[0]), boxes=[box])
    return gather.example(
        row,
        options,
        kind=kind,
        question=question,
        answer=gather.answered(kind, truth, given),
        pictures=pictures,
        target=truth,
        identity=row.values.get("id"),
        meta=meta,
    )


def _alpaca(row: Row, shape: _Shape) -> tuple[str, Any, dict[str, Any]]:
    columns = shape.columns
    if row.values.get(columns.get("history", "history")):
        raise ValueError("The row has a history: it is more than one exchange, to which there is no one answer.")
    question = gather.words(row.values.get(columns["prompt"]), columns["prompt"])
    query = row.values.get(columns["query"])
    meta = _system(row, shape)
    if shape.ranking:
        meta["rejected"] = row.values.get(columns.get("rejected", "rejected"))
    answer = columns.get("chosen", "chosen") if shape.ranking else columns["response"]
    return f"{question}\n{query}" if query else question, row.values.get(answer), meta


def _sharegpt(row: Row, shape: _Shape) -> tuple[str, Any, dict[str, Any]]:
    tags, columns = shape.tags, shape.columns
    turns = row.values.get(columns["messages"])
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"{columns['messages']} is a list of turns, got {turns!r:.80}.")
    said = [(turn.get(tags["role_tag"]), turn.get(tags["content_tag"])) for turn in turns]
    meta = _system(row, shape)
    if said and said[0][0] == tags["system_tag"]:
        meta["system"] = said.pop(0)[1]
    if shape.ranking:
        said.append((tags["assistant_tag"], _content(row, shape, "chosen")))
        meta["rejected"] = _content(row, shape, "rejected")
    roles = [role for role, _ in said]
    if roles != [tags["user_tag"], tags["assistant_tag"]]:
        raise ValueError(
            f"An example is one question and its answer; the turns are of {', '.join(map(str, roles)) or 'nobody'}."
        )
    return gather.words(said[0][1], "the question"), said[1][1], meta


def _content(row: Row, shape: _Shape, name: str) -> Any:
    turn = row.values.get(shape.columns.get(name, name))
    return turn.get(shape.tags["content_tag"]) if isinstance(turn, dict) else turn


def _system(row: Row, shape: _Shape) -> dict[str, Any]:
    system = row.values.get(shape.columns.get("system", "system"))
    return {"system": system} if system else {}
