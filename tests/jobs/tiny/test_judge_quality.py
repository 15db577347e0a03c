from __future__ import annotations

import pytest

from jobs.tiny import judge_quality
from jobs.tiny.judge_quality import Verdict


def test_accuracy_is_balanced_and_an_unreadable_reply_is_wrong() -> None:
    verdicts = [
        Verdict(damage="", stated=True, judged=True),
        Verdict(damage="", stated=True, judged=True),
        Verdict(damage="", stated=True, judged=True),
        Verdict(damage="cut", stated=True, judged=None),
        Verdict(damage="wrong number", stated=False, judged=False),
        Verdict(damage="wrong number", stated=False, judged=True),
    ]

    quality = judge_quality.summary(3, verdicts)

    assert quality["accuracy_stated"] == pytest.approx(0.75)
    assert quality["accuracy_unstated"] == pytest.approx(0.5)
    assert quality["balanced_accuracy"] == pytest.approx(0.625)
    assert quality["unreadable"] == 1
    assert quality["by_damage"] == {"cut": 0.0, "none": 1.0, "wrong number": 0.5}
