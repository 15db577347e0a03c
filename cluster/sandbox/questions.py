"""What ``sdiag`` answers, as numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass

OWN_TYPES = ("REQUEST_STATS_INFO",)
NODE_TYPES = ("MESSAGE_NODE_REGISTRATION_STATUS", "MESSAGE_EPILOG_COMPLETE", "REQUEST_COMPLETE_BATCH_SCRIPT",
              "REQUEST_STEP_COMPLETE", "REQUEST_COMPLETE_PROLOG")  # fmt: skip
"""What slurmd and slurmstepd send, not a user's command."""


@dataclass(frozen=True, kw_only=True)
class Rpcs:
    """How many requests slurmctld has had since its start.

    Attributes:
        by_type: Count of each type of message, ``{"REQUEST_JOB_INFO_SINGLE": 3}``.
        by_user: Count of each user.
    """

    by_type: dict[str, int]
    by_user: dict[str, int]

    @property
    def of_clients(self) -> int:
        """All requests but those that nodes send by themselves and that this question costs."""
        return sum(count for name, count in self.by_type.items() if name not in (*OWN_TYPES, *NODE_TYPES))

    @classmethod
    def parse(cls, text: str) -> Rpcs:
        """Return the counts in the output of ``sdiag``."""
        _, _, types = text.partition("statistics by message type")
        types, _, users = types.partition("statistics by user")
        return cls(by_type=_counts(types), by_user=_counts(users.partition("\n\n")[0]))


def _counts(text: str) -> dict[str, int]:
    return {name: int(count) for name, count in re.findall(r"^\s*(\S+)\s+\(\s*\d+\)\s+count:(\d+)", text, re.MULTILINE)}
