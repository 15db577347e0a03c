"""Tokens that may still be spent at one endpoint.

Before a request leaves, what it may cost at most is set aside: its longest reply, and a prompt as long as the
longest so far. So a budget is exceeded only by a first prompt that is longer than it was guessed.
"""

from __future__ import annotations

import asyncio
import json

from jobs.construct.request import Request

CHARACTERS_A_TOKEN = 3
TOKENS_AN_IMAGE = 1500


class Spent(Exception):
    """The budget does not suffice for another request."""


class Budget:
    """The budget of one endpoint.

    Args:
        most: Tokens; None for no limit.
        spent: Of earlier attempts.

    Attributes:
        spent: Tokens spent, those of requests without an answer included.
        reserved: Tokens set aside for requests under way.
    """

    def __init__(self, most: int | None, spent: int) -> None:
        self.most = most
        self.spent = spent
        self.reserved = 0
        self._longest_prompt = 0
        self._changed = asyncio.Condition()

    def cost(self, request: Request) -> int:
        """Return what a request may cost at most, tokens; a guess where no prompt was counted yet."""
        guess = len(json.dumps(request.messages)) // CHARACTERS_A_TOKEN + TOKENS_AN_IMAGE * len(request.images)
        return (self._longest_prompt or guess) + request.longest_reply

    async def reserve(self, tokens: int) -> None:
        """Set tokens aside; waits while requests under way may turn out cheaper than they might have been.

        Raises:
            Spent: They do not suffice, and nothing is under way that could give some back.
        """
        async with self._changed:
            while self.most is not None and self.spent + self.reserved + tokens > self.most:
                if not self.reserved:
                    raise Spent
                await self._changed.wait()
            self.reserved += tokens

    async def settle(self, reserved: int, spent: int, *, prompt: int = 0) -> None:
        """Give back what was set aside for a request, and count what it cost.

        Args:
            reserved: What was set aside.
            spent: What it cost.
            prompt: How long its prompt was; 0 if that is not known.
        """
        async with self._changed:
            self.reserved -= reserved
            self.spent += spent
            self._longest_prompt = max(self._longest_prompt, prompt)
            self._changed.notify_all()
