"""A language model that finds the answer in a response and says whether it is right.

It reads text only, and is whatever completes a conversation; ``eval.engines.endpoint`` has one over
OpenAI's protocol. Rules know many forms, a reader knows all of them; the accuracies in system A's
tables are a reader's. What it could not be asked is missing, never wrong: accuracy is over what was
judged.

    async with LanguageReader(chat) as reader:
        answer = await reader.extract(response)
        right = await reader.judge(answer, truth, choices)

Source:
    Perception-R1, evaluation/qwen_judge_*_v4.py at c47eaf2: the same two steps at temperature 0 with
    128 tokens; the prompts are ours. Published code computes no accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from eval import choices as options
from eval import thinking

TAGGED = re.compile(r"<answer>(.+?)</answer>", re.DOTALL)
VERDICT = re.compile(r"\b(true|false)\b", re.IGNORECASE)
CHARACTERS_MAX = 24_000
"""Of a response that has no tag, the end is sent: an answer stands there, and a reader's context is short."""

EXTRACTION = """\
You get the response of a model to a problem. Find its final answer and write it between <answer> and </answer>, \
with nothing else. Do not solve the problem and do not correct the answer. If the response gives no answer, write \
<answer>none</answer>.

Response: We get x = 12/4, so each side is 3 cm long. The correct choice would be C, 3 cm.
<answer>C</answer>

Response: Hence the area is \\( 4\\pi \\), which is about 12.57.
<answer>4\\pi</answer>

Response: The line crosses the axis at (0, -2) and again at (5, 3).
<answer>(0, -2) and (5, 3)</answer>

Response: The figure does not tell how high the tower is, so this cannot be decided.
<answer>none</answer>"""

JUDGEMENT = """\
You get an answer to a problem and the true answer. Say whether the two mean the same: equal numbers in another form, \
the letter of an option or its text, the same words in another order. A missing unit does not matter, another unit \
does. Reply with one word, true or false."""


class Chat(Protocol):
    """Something that completes a conversation."""

    async def complete(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        """Return the reply; None if there was none."""

    async def close(self) -> None:
        """Close connections."""


class LanguageReader:
    """Extracts and judges; a ``Reader`` of ``eval.tasks``."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    async def extract(self, response: str) -> str | None:
        """Return the first ``<answer>``; without one, what the model finds; without a tag in that, the response."""
        tagged = TAGGED.search(response)
        if tagged:
            return tagged.group(1).strip()
        reply = await self._chat.complete(extraction_messages(response))
        if reply is None:
            return None
        found = TAGGED.search(reply)
        return found.group(1).strip() if found else thinking.without_end(response)

    async def judge(self, answer: str, truth: str, choices: Sequence[str] = ()) -> bool | None:
        """Return whether the model says that the answer is right; None if it says neither, or both, or nothing."""
        reply = await self._chat.complete(judgement_messages(answer, truth, choices))
        said = {word.lower() for word in VERDICT.findall(thinking.answer(reply or ""))}
        return said == {"true"} if len(said) == 1 else None

    async def close(self) -> None:
        """Close connections."""
        await self._chat.close()

    async def __aenter__(self) -> LanguageReader:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def extraction_messages(response: str) -> list[dict[str, str]]:
    """Return the conversation that asks for the answer in a response."""
    said = thinking.without_end(response)[-CHARACTERS_MAX:]
    return [{"role": "system", "content": EXTRACTION}, {"role": "user", "content": f"Response: {said}"}]


def judgement_messages(answer: str, truth: str, choices: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return the conversation that asks whether an answer is right."""
    parts = [f"Options:\n{options.listed(choices)}"] if choices else []
    parts += [f"Answer: {answer[-CHARACTERS_MAX:]}", f"True answer: {truth}"]
    return [{"role": "system", "content": JUDGEMENT}, {"role": "user", "content": "\n".join(parts)}]
