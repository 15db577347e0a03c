from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.data import synthetic
from jobs.sft import conversations
from jobs.sft.conversations import Conversation
from orchestrator.errors import InputError, NotFound


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_scenes_with_responses_are_conversations_with_images(tmp_path: Path) -> None:
    [scene] = synthetic.scenes("warm", 1, seed=1)
    path = tmp_path / "warm.parquet"
    synthetic.write(path, [scene], ["hello"])

    [found] = conversations.load(path, "Think.")

    assert found == Conversation(
        messages=(("user", f"<image>{scene.question} Think."),), images=(synthetic.draw(scene),), response="hello"
    )


def test_text_examples_are_prompts_or_messages(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        {"prompt": "1+1?", "response": "2"},
        {"messages": [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+2?"}], "response": "3"},
    )

    assert conversations.load(path) == [
        Conversation(messages=(("user", "1+1?"),), images=(), response="2"),
        Conversation(messages=(("system", "Add."), ("user", "1+2?")), images=(), response="3"),
    ]


def test_all_bad_rows_are_listed(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        {"prompt": "1+1?", "response": "2"},
        {"prompt": "1+1?"},
        {"problem": "<image>?", "response": "2"},
        {"messages": [{"role": "assistant", "content": "Hi"}], "response": "2"},
    )

    with pytest.raises(InputError) as raised:
        conversations.load(path)

    assert str(raised.value).splitlines() == [
        f"{path}: 3 problems.",
        "  row 1: response must be a text, got None.",
        "  row 2: problem has 1 <image> for 0 image(s).",
        "  row 3: messages must be {role, content} texts and end with the user's.",
    ]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file of examples"):
        conversations.load(tmp_path / "none.jsonl")


def test_other_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b")

    with pytest.raises(InputError, match=r"Examples are \.parquet or \.jsonl, got '\.csv'"):
        conversations.load(path)
