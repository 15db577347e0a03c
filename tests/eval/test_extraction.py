"""A language model that reads answers and judges them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from eval import extraction
from eval.extraction import LanguageReader


class Said:
    """Replies as told, and keeps what it was asked."""

    def __init__(self, *replies: str | None) -> None:
        self.replies = list(replies)
        self.asked: list[str] = []
        self.closed = False

    async def complete(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        assert [message["role"] for message in messages] == ["system", "user"]
        self.asked.append(messages[1]["content"])
        return self.replies.pop(0)

    async def close(self) -> None:
        self.closed = True


def ask(do: Callable[[LanguageReader], Awaitable[Any]], *replies: str | None) -> tuple[Any, list[str]]:
    """Return what the reader found, and what the model was asked for it."""
    chat = Said(*replies)

    async def main() -> Any:
        async with LanguageReader(chat) as reader:
            return await do(reader)

    found = asyncio.run(main())
    assert chat.closed
    return found, chat.asked


def test_a_tagged_answer_costs_no_request() -> None:
    found, asked = ask(lambda reader: reader.extract("<answer>\n5\n</answer> <answer>6</answer>"))

    assert (found, asked) == ("5", [])


def test_an_answer_without_a_tag_is_found_by_the_model() -> None:
    found, asked = ask(lambda reader: reader.extract("So it is C.<|im_end|>"), "<answer>C</answer>")

    assert (found, asked) == ("C", ["Response: So it is C."])


def test_a_reply_without_a_tag_leaves_the_whole_response() -> None:
    found, _ = ask(lambda reader: reader.extract("So it is C."), "It says C.")

    assert found == "So it is C."


def test_without_a_reply_there_is_no_answer() -> None:
    assert ask(lambda reader: reader.extract("So it is C."), None)[0] is None


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("true", True),
        ("False.", False),
        ("**True**", True),
        ("<think>true or false?</think>false", False),
        ("true or false", None),
        ("untrue", None),
        ("yes", None),
        ("", None),
        (None, None),
    ],
)
def test_a_verdict_is_true_or_false_or_missing(reply: str | None, expected: bool | None) -> None:
    found, asked = ask(lambda reader: reader.judge("4 cm", "B", ("3 cm", "4 cm")), reply)

    assert found is expected
    assert asked == ["Options:\nA. 3 cm\nB. 4 cm\nAnswer: 4 cm\nTrue answer: B"]


def test_of_a_long_response_the_end_is_sent() -> None:
    said = extraction.extraction_messages("x" * 100_000 + " so C")[1]["content"]

    assert len(said) < extraction.CHARACTERS_MAX + 20
    assert said.endswith(" so C")
