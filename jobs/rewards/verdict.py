"""What the judge said of one response."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One verdict, or the reason why there is none.

    Attributes:
        value: The share of facts found, see ``eval.facts``; NaN if there is no verdict.
        scores: One for every fact asked.
        mismatch: The reply's tags were not exactly those asked for.
        reply: The judge's text, "" if it sent none.
        latency_s: From sending the request that brought the reply to reading it, as measured then; of one that was
            sent a second time, from the first sending.
        attempts: Requests that the judge took; 0 for a verdict from the cache.
        cached: It came from the cache, or from a request that another response was waiting for.
        tokens_in: Of the prompt, as the server counts them.
        tokens_out: Of the reply.
        missing: Why there is no verdict; "" if there is one.
    """

    value: float = math.nan
    scores: tuple[float, ...] = ()
    mismatch: bool = False
    reply: str = ""
    latency_s: float = 0.0
    attempts: int = 0
    cached: bool = False
    tokens_in: int = 0
    tokens_out: int = 0
    missing: str = ""
