from __future__ import annotations

from pathlib import Path

import pytest

from jobs.fence import Fence
from orchestrator.errors import ConflictError
from orchestrator.ledger import Ledger


def test_the_newest_attempt_may_write(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.jsonl", 1).append("attempt_started")
    fence = Fence(tmp_path / "ledger.jsonl", 2)

    fence.check()
    Ledger(tmp_path / "ledger.jsonl", 2).append("attempt_started")
    fence.check()


def test_without_a_ledger_nobody_is_newer(tmp_path: Path) -> None:
    Fence(tmp_path / "ledger.jsonl", 1).check()


def test_a_newer_attempt_is_seen_at_the_next_look(tmp_path: Path) -> None:
    fence = Fence(tmp_path / "ledger.jsonl", 1)
    Ledger(tmp_path / "ledger.jsonl", 1).append("attempt_started")
    fence.check()
    Ledger(tmp_path / "ledger.jsonl", 2).append("attempt_started")

    for _ in range(2):
        with pytest.raises(ConflictError, match="attempt 2 of this run has begun; attempt 1 may not write any more"):
            fence.check()


def test_half_a_line_says_nothing_until_it_is_whole(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text('{"at": 1, "generation": 2, ')
    fence = Fence(ledger, 1)
    fence.check()

    with ledger.open("a") as file:
        file.write('"event": "attempt_started"}\n')

    with pytest.raises(ConflictError):
        fence.check()


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text('{"at": 1, "generation": 9\n{"at": 1, "generation": 1, "event": "x"}\n')

    Fence(ledger, 1).check()
