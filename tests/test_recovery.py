from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bench import campaign, fault_table, rounds
from bench.figures import Figure, table
from bench.stand_in import marks, work


def test_a_goal_is_missed_by_the_median_on_its_side() -> None:
    assert Figure(what="a", who="b", values=[1, 2, 9], goal=1.9).missed
    assert not Figure(what="a", who="b", values=[1, 1, 9], goal=1.9).missed
    assert Figure(what="a", who="b", values=[0.8], goal=0.85, bound="at least").missed
    assert not Figure(what="a", who="peer", values=[100]).missed


def test_a_goal_that_was_not_measured_is_missed() -> None:
    assert Figure(what="a", who="b", goal=1).missed


def test_figures_of_one_quantity_stand_together() -> None:
    lines = table(
        [
            Figure(what="start, s", who="ours", values=[1.0, 3.0, 2.0], goal=4),
            Figure(what="crash, s", who="ours", values=[5.0], goal=4),
            Figure(what="start, s", who="peer", note="left out"),
        ]
    )

    assert lines[2:] == [
        "| start, s | ours | 2 | 1 - 3 (3) | at most 4, reached |  |",
        "| start, s | peer | not measured |  |  | left out |",
        "| crash, s | ours | 5 | 5 - 5 (1) | at most 4, missed |  |",
    ]


def test_recovery_is_from_the_trainers_signal_to_the_first_step_of_its_next_start() -> None:
    found = [
        {"what": "started", "pid": 1, "at": 1.0},
        {"what": "signal", "pid": 9, "at": 2.0},
        {"what": "signal", "pid": 1, "at": 3.0},
        {"what": "step", "pid": 1, "at": 3.2},
        {"what": "started", "pid": 2, "at": 5.0},
        {"what": "step", "pid": 2, "at": 5.5},
        {"what": "step", "pid": 2, "at": 6.5},
    ]

    assert rounds.after_signal(found) == 2.5
    assert rounds.after_signal(found[:5]) is None


def test_steps_that_are_done_again_count_once() -> None:
    steps = [{"step": n, "at": at, "took_s": 2.0} for n, at in ((1, 10), (2, 12), (2, 20), (3, 40))]

    assert campaign.productive_s(steps, 9, 30) == 4.0


def test_samples_are_counted_lost_up_to_the_newest_step_and_repeated_each_time() -> None:
    steps = [{"samples": marks.samples(number)} for number in (1, 3, 3, 4)]

    assert marks.lost_and_repeated(steps) == (4, 4)
    assert marks.lost_and_repeated([]) == (0, 0)


def test_the_stand_in_saves_the_step_under_way_and_goes_on_behind_it(tmp_path: Path) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    asked = work.hear(tmp_path)
    try:

        def ask() -> str:
            if marks.newest_step(tmp_path) == 2:
                os.kill(os.getpid(), signal.SIGUSR2)
            return "judge"

        assert work.train(tmp_path, steps=9, step_s=0, ask=ask, asked=asked) == work.DRAINED
        assert work.train(tmp_path, steps=4, step_s=0, ask=lambda: "judge", asked=[]) == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    assert [mark["step"] for mark in marks.read(tmp_path, "step")] == [1, 2, 3, 4]
    assert len(marks.read(tmp_path, "signal")) == 1


def test_a_commit_that_is_refused_leaves_no_step(tmp_path: Path) -> None:
    code = work.train(tmp_path, steps=3, step_s=0, ask=lambda: "", asked=[], commit=lambda step: step < 2)

    assert code == 3
    assert [mark["step"] for mark in marks.read(tmp_path, "step")] == [1]


def test_the_fault_table_replaces_what_is_between_the_markers_and_nothing_else() -> None:
    text = "before\n<!-- faults -->\nold\n<!-- /faults -->\nafter\n"

    found = fault_table.put(text, "| a |\n")

    assert found == "before\n<!-- faults -->\n| a |\n<!-- /faults -->\nafter\n"
    assert fault_table.put(found, "| a |\n") == found
    with pytest.raises(ValueError, match="<!-- faults -->"):
        fault_table.put("no markers", "| a |\n")
