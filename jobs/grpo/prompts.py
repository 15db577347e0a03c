"""The order in which examples are used: a function of seed and position, so a resume cannot lose its place.

A pickled iterator is not used on purpose: the field's loaders lose or repeat an epoch when resumed at
its end (torchdata #1437, verl #7401).
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Where the data stands: ``offset`` batches of ``epoch`` have been consumed."""

    epoch: int = 0
    offset: int = 0


@dataclass(frozen=True, kw_only=True)
class PromptSource:
    """Deals batches of example indices for ever, reshuffled every epoch, incomplete batches dropped.

    Attributes:
        examples: How many there are.
        batch: How many to deal at once; at most ``examples``.
        seed: Fixes every epoch's order.
    """

    examples: int
    batch: int
    seed: int

    @property
    def batches_per_epoch(self) -> int:
        return self.examples // self.batch

    def deal(self, cursor: Cursor) -> tuple[list[int], Cursor]:
        """Return the indices of the batch at ``cursor`` and the cursor behind it.

        >>> source = PromptSource(examples=5, batch=2, seed=1)
        >>> _, after = source.deal(Cursor(epoch=0, offset=1))
        >>> after
        Cursor(epoch=1, offset=0)
        """
        order = list(range(self.examples))
        random.Random(f"{self.seed}/{cursor.epoch}").shuffle(order)
        first = cursor.offset * self.batch
        following = cursor.offset + 1
        behind = (
            Cursor(epoch=cursor.epoch, offset=following)
            if following < self.batches_per_epoch
            else Cursor(epoch=cursor.epoch + 1, offset=0)
        )
        return order[first : first + self.batch], behind


def sample_seed(run_seed: int, step: int, example: str, sample: int) -> int:
    """Return the seed of one response, whatever else is sampled beside it.

    The step stands for the policy's version, so the same prompt in a later epoch is sampled anew.
    """
    digest = hashlib.sha256(f"{run_seed}/{step}/{example}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
