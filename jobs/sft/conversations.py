"""The examples of fine-tuning: what is asked, with images or without, and the reply to be learned.

A row of the parquet or JSONL file has ``response`` and one of

    problem, images     one user turn with images, in the columns of ``jobs.data.geo3k``
    messages            a list of {role, content} without images, up to the reply
    prompt              a text: one user turn without images
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import data
from jobs.data import IMAGE
from jobs.sft.settings import Settings
from orchestrator.errors import InputError, NotFound, Problem, all_at_once


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One example.

    Attributes:
        messages: Role and content, the last of the user. One ``<image>`` for each image.
        images: Encoded image files, in order; they belong to the last message.
        response: What the model is to say.
    """

    messages: tuple[tuple[str, str], ...]
    images: tuple[bytes, ...]
    response: str


def read(settings: Settings) -> list[Conversation]:
    """Return the examples that the settings name. Raises what ``load`` and ``of_source`` do."""
    if settings.source is None:
        return load(Path(settings.path), settings.format_prompt)
    return of_source(settings)


def of_source(settings: Settings) -> list[Conversation]:
    """Return the examples of a source of ``jobs.data``, each to be answered as ``response`` says.

    Raises:
        InputError: The source cannot be read, or has rows that cannot be used; all are listed.
        NotFound: There is no such file.
    """
    assert settings.source is not None
    return [
        Conversation(
            messages=(("user", data.prompt(example, settings.format_prompt)),),
            images=example.images,
            response=settings.response.replace("{answer}", example.answer),
        )
        for example in data.load(settings.source, Path(settings.path), settings.options)
    ]


def load(path: Path, format_prompt: str = "") -> list[Conversation]:
    """Return every row of the file.

    Raises:
        NotFound: There is no such file.
        InputError: It cannot be read, is empty, or has rows that cannot be used; all are listed
            with their numbers, counted from 0.
    """
    problems: list[Problem] = []
    conversations = []
    for number, row in enumerate(_rows(path)):
        try:
            conversations.append(_conversation(row, format_prompt))
        except ValueError as error:
            problems.append(Problem(place=f"row {number}", fact=str(error)))
    if problems:
        raise all_at_once(str(path), problems)
    if not conversations:
        raise InputError(f"{path}: The file has no rows.")
    return conversations


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        raise NotFound(f"{path}: no such file of examples. It is the setting 'path'.")
    if path.suffix == ".jsonl":
        yield from _json_lines(path)
    elif path.suffix == ".parquet":
        try:
            yield from pq.read_table(path).to_pylist()
        except pa.ArrowInvalid as error:
            raise InputError(f"{path}: Not a parquet file: {error}.") from None
    else:
        raise InputError(f"{path}: Examples are .parquet or .jsonl, got {path.suffix or 'no suffix'!r}.")


def _json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}:{number}: Not JSON: {error}.") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}:{number}: A line is one JSON object, got {line[:40]!r}.")
            yield row


def _conversation(row: Mapping[str, Any], format_prompt: str) -> Conversation:
    response = _text(row, "response")
    if row.get("messages"):
        return Conversation(messages=_messages(row["messages"]), images=(), response=response)
    if "prompt" in row:
        return Conversation(messages=(("user", _text(row, "prompt")),), images=(), response=response)
    problem = _text(row, "problem")
    images = tuple(_image(value) for value in row.get("images") or ())
    if IMAGE not in problem:
        problem = IMAGE * len(images) + problem
    if problem.count(IMAGE) != len(images):
        raise ValueError(f"problem has {problem.count(IMAGE)} {IMAGE} for {len(images)} image(s).")
    text = f"{problem} {format_prompt}" if format_prompt else problem
    return Conversation(messages=(("user", text),), images=images, response=response)


def _messages(values: Any) -> tuple[tuple[str, str], ...]:
    messages = tuple((value.get("role"), value.get("content")) for value in values)
    if not all(isinstance(part, str) for message in messages for part in message) or messages[-1][0] != "user":
        raise ValueError("messages must be {role, content} texts and end with the user's.")
    return messages


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a text, got {value!r}.")
    return value


def _image(value: Any) -> bytes:
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(data, bytes):
        raise ValueError(f"An image is bytes or {{bytes}}, got {value!r:.60}.")
    return data
