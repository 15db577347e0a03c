"""No crash, full disk, I/O error or power loss at any call takes a run's state away, or leaves half of one."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.crash_points import runner
from tests.crash_points.runner import Row
from tests.crash_points.scenarios import BAD, OURS
from tests.crash_points.shim import FAULTS

pytestmark = pytest.mark.slow
NAMES = [scenario.name for scenario in OURS]
ALL = {mode.name for mode in FAULTS}
# Which faults have to be seen to do harm.
SEEN = {
    "bad: save in place, the highest number is loaded": ALL,
    "bad: delete the old one, then save": ALL,
    # Python writes again when it closes the file, so an error that passes is told and made good.
    "bad: write a JSON file in place": ALL - {"IO_ERROR"},
    "bad: save without fsync": {"POWER_LOSS"},
    "bad: append without looking at what was written": {"NO_SPACE"},
}


@pytest.fixture(scope="module")
def rows() -> Mapping[str, Row]:
    return {row.scenario: row for row in runner.run([*NAMES, *SEEN])}


@pytest.mark.parametrize("name", NAMES)
def test_no_fault_at_any_call_does_harm(name: str, rows: Mapping[str, Row]) -> None:
    assert [str(harm) for harm in rows[name].harms] == []


@pytest.mark.parametrize("name", [scenario.name for scenario in BAD])
def test_the_harm_that_a_bad_way_does_is_seen(name: str, rows: Mapping[str, Row]) -> None:
    assert {harm.mode for harm in rows[name].harms} == SEEN[name]


def test_saving_in_place_is_unloadable_at_nearly_every_call(rows: Mapping[str, Row]) -> None:
    row = rows["bad: save in place, the highest number is loaded"]

    # All but making the folder and syncing the last name.
    assert row.harmful("KILL_BEFORE") == len(row.calls) - 2


def test_every_call_that_changes_a_file_is_seen(rows: Mapping[str, Row]) -> None:
    calls = rows["files: replace a JSON file"].calls

    assert [call.split()[0] for call in calls] == ["open", "write", "fsync", "rename", "fsync"]
    assert calls[-2:] == ["rename record.json", "fsync ."]


def test_a_save_syncs_every_file_and_folder_before_the_checkpoint_gets_its_name(rows: Mapping[str, Row]) -> None:
    calls = [call.split() for call in rows["checkpoint: save over an older one"].calls]
    renamed = calls.index(["rename", "step_00000020"])

    made = {path for operation, path in calls[:renamed] if operation in ("write", "mkdir")}
    synced = {path for operation, path in calls[:renamed] if operation == "fsync"}

    assert len(made) == 11
    # The folder of all checkpoints is there already.
    assert made - {"."} <= synced
    assert calls[renamed:] == [["rename", "step_00000020"], ["fsync", "."]]
