"""One question to the judge: what is sent, and what identifies it without its pictures."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

STARTS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about one response.

    Attributes:
        messages: A system and a user message, texts only.
        asked: Numbers of the facts that a verdict is wanted on.
        images: Encoded image files that the user message begins with.
    """

    messages: list[dict[str, str]]
    asked: tuple[int, ...]
    images: tuple[bytes, ...] = ()

    def identity(self) -> list[Any]:
        """Return what the verdict depends on, with a hash for every image."""
        hashes = [{"image": hashlib.sha256(image).hexdigest()} for image in self.images]
        return [*self.messages, *hashes]

    def body(self) -> list[dict[str, Any]]:
        """Return the messages as they are sent.

        Made anew for every request: a thousand questions that wait would else hold their images in text.
        """
        if not self.images:
            return list(self.messages)
        *before, user = self.messages
        pictures = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in self.images]
        return [*before, {**user, "content": [*pictures, {"type": "text", "text": user["content"]}]}]


def data_url(image: bytes) -> str:
    """Return an encoded image file as a URL that holds it.

    >>> data_url(b"GIF89a")
    'data:image/gif;base64,R0lGODlh'
    """
    kind = next((name for start, name in STARTS.items() if image.startswith(start)), "png")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
