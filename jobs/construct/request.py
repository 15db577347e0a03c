"""One question to a model: what makes it this question and no other, and how it is sent.

The key is the hash of everything that can change the reply: stage, problem, sample, model, messages with the
hashes of their images, and options. It names the request in the log, in batch files, and to servers that
recognise a repeated request by its ``Idempotency-Key``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Stage = Literal["distil", "extract", "verify"]
STAGES: tuple[Stage, ...] = ("distil", "extract", "verify")
PICTURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question.

    Attributes:
        stage: Who is asked.
        row: The problem's id.
        candidate: Which solution of the problem this is, or is about.
        sample: Which of several equal questions.
        model: What answers: the same across restarts of its server.
        messages: With an empty ``image_url`` part for every image.
        images: Encoded image files, in the order of these parts.
        options: Further fields of the body: temperature, limits.
    """

    stage: Stage
    row: str
    candidate: int
    sample: int = 0
    model: str
    messages: list[dict[str, Any]] = field(repr=False)
    images: Sequence[bytes] = field(default=(), repr=False)
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """The request's name, 64 characters."""
        whole = [self.stage, self.row, self.candidate, self.sample, self.record()]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    @property
    def longest_reply(self) -> int:
        """The limit of the reply in tokens."""
        return int(self.options.get("max_tokens") or self.options["max_completion_tokens"])

    def record(self) -> dict[str, Any]:
        """Return the body with ``sha256:...`` in place of every image, for the log."""
        shown = [f"sha256:{hashlib.sha256(image).hexdigest()}" for image in self.images]
        return {"model": self.model, "messages": _filled(self.messages, shown), **self.options}

    def body(self, served: str) -> dict[str, Any]:
        """Return what is sent.

        Args:
            served: The name by which the server knows the model, which may be new at every start.
        """
        urls = [data_url(image) for image in self.images]
        return {"model": served, "messages": _filled(self.messages, urls), **self.options}


def data_url(image: bytes) -> str:
    """Return an image file as a URL that holds it."""
    kind = next((name for start, name in PICTURES.items() if image.startswith(start)), "png")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _filled(messages: Sequence[dict[str, Any]], urls: Sequence[str]) -> list[dict[str, Any]]:
    left = iter(urls)
    return [
        {**message, "content": [_part(part, left) for part in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in messages
    ]


def _part(part: dict[str, Any], urls: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": next(urls)}} if part["type"] == "image_url" else part
