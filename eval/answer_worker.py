"""The process that compares answers: ``python -m eval.answer_worker``, JSON lines in, JSON lines out.

It is a program of its own rather than a forked or spawned copy of its parent, so that it starts
alike from a trainer, a Ray actor or a test, and loads nothing but math-verify. It ends when its
input ends. While it is busy the kernel ends it by an alarm, even inside a long multiplication and
even when its parent is gone.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from typing import IO, Any


def main() -> int:
    """Answer ``{"response", "answer", "faithful", "limit_s"}`` with ``{"correct"}``, until the input ends."""
    # Signals to a whole process group (Ctrl-C, a scheduler's warning) are the parent's to handle:
    # it may have responses left to score before it stops, and then closes our input.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    replies = sys.stdout
    # What a library prints must not be taken for a reply.
    sys.stdout = sys.stderr
    # math-verify logs every text that it cannot read, which for a model's text is no news.
    logging.disable(logging.ERROR)
    _serve(sys.stdin, replies)
    return 0


def _serve(requests: IO[str], replies: IO[str]) -> None:
    # The first comparison loads math-verify and its grammar, for which nobody's time limit is meant.
    _compare({"response": "\\boxed{1}", "answer": "$1$", "faithful": False})
    _send(replies, {"ready": True})
    for line in requests:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["limit_s"])
        reply = _compare(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(replies, reply)


def _compare(request: dict[str, Any]) -> dict[str, object]:
    from eval.answers import correct

    try:
        return {"correct": correct(request["response"], request["answer"], faithful=request["faithful"])}
    except (RecursionError, MemoryError, OverflowError) as error:
        # Not a wrong answer but one that we failed to compare.
        return {"failed": type(error).__name__}


def _send(replies: IO[str], value: dict[str, object]) -> None:
    replies.write(json.dumps(value) + "\n")
    replies.flush()


if __name__ == "__main__":
    sys.exit(main())
