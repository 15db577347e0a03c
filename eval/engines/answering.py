"""What an evaluation asks of whoever answers: engines of its own, or a server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from eval.generation import Answer, Question


class Answering(Protocol):
    """Answers questions.

    Attributes:
        room: Answers that may well be on their way to be measured while more are generated.
        about: What the summary says of it: device, dtype, the weights' revision, or the server's model.
    """

    room: int
    about: Mapping[str, Any]

    def answers(self, questions: Sequence[Question]) -> AsyncGenerator[Answer, None]:
        """Yield the answers in the order in which they end, each the moment it ends.

        Closing the generator gives up what is under way. One call at a time.
        """

    async def close(self) -> None:
        """Let go of processes, memory and connections."""
