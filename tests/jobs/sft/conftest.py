"""A text model of a few thousand parameters and what it is taught."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.sft.conversations import Conversation
from jobs.tiny import shapes, tokenizer

EXAMPLES = [
    Conversation(messages=(("user", f"Say {word}."),), images=(), response=word) for word in ("yes", "no", "maybe so")
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    words = [text for example in EXAMPLES for text in (example.messages[0][1], example.response)]
    shapes.save_judge(path, tokenizer.build([*words, "system user assistant\n"]), hidden=32, layers=1, seed=1)
    return path
