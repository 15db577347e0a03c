"""The journal: gives back exactly what was collected, or nothing."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.grpo import journal

SETTINGS = "5e7715"
RECORDS: list[journal.Record] = [
    {"tokens": [151644, 0, 7], "logprobs": [-0.1, -1e-300, float("-inf")], "text": "Was ist π?\n\u2028 …\r\x85"},
    {"reward": float("nan"), "reply": None, "finished": True, "parts": {"accuracy": 1.0, "count": 1}},
    {"empty": [], "minus_nought": -0.0, "smallest": 5e-324, "third": 1 / 3},
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def exact(value: Any) -> Any:
    """Return ``value`` so that two are equal only if they are the same to the bit, NaN with NaN."""
    if isinstance(value, float):
        return ("float", value.hex())
    if isinstance(value, dict):
        return {key: exact(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [exact(inner) for inner in value]
    return (type(value).__name__, value)


def append(folder: Path, step: int, records: list[journal.Record] = RECORDS) -> Path:
    return journal.append(folder, step, SETTINGS, records)


def test_what_is_read_is_what_was_written_to_the_bit(tmp_path: Path) -> None:
    append(tmp_path, 12)

    assert exact(journal.read(tmp_path, 12, SETTINGS)) == exact(RECORDS)


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal")


@settings(max_examples=25, deadline=None)
@given(records=st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=4))
def test_any_records_come_back(one_folder: Path, records: list[journal.Record]) -> None:
    append(one_folder, 1, records)

    assert exact(journal.read(one_folder, 1, SETTINGS)) == exact(records)


def test_half_a_surrogate_pair_in_a_reply_comes_back(tmp_path: Path) -> None:
    reply = json.loads(r'"\ud83d alone"')

    append(tmp_path, 1, [{"reply": reply}])

    assert journal.read(tmp_path, 1, SETTINGS) == [{"reply": reply}]


def test_a_step_of_no_records_is_not_a_step_that_is_not_there(tmp_path: Path) -> None:
    append(tmp_path, 1, [])

    assert journal.read(tmp_path, 1, SETTINGS) == []
    assert journal.read(tmp_path, 2, SETTINGS) is None


def test_a_step_without_a_journal_is_none(tmp_path: Path) -> None:
    assert journal.read(tmp_path / "nothing", 1, SETTINGS) is None
    assert journal.steps(tmp_path / "nothing") == []


def test_other_settings_are_as_good_as_nothing(tmp_path: Path) -> None:
    append(tmp_path, 12)

    assert journal.read(tmp_path, 12, "0ff5e7") is None


def test_the_file_of_another_step_is_as_good_as_nothing(tmp_path: Path) -> None:
    append(tmp_path, 11).rename(tmp_path / "step_00000012.jsonl")

    assert journal.read(tmp_path, 12, SETTINGS) is None


def test_a_file_cut_off_anywhere_is_as_good_as_nothing(tmp_path: Path) -> None:
    path = append(tmp_path, 12, RECORDS[1:2])
    whole = path.read_bytes()

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert journal.read(tmp_path, 12, SETTINGS) is None, f"{length} of {len(whole)} bytes"


def test_a_file_with_any_bit_flipped_is_as_good_as_nothing(tmp_path: Path) -> None:
    path = append(tmp_path, 12, RECORDS[1:2])
    whole = path.read_bytes()

    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert journal.read(tmp_path, 12, SETTINGS) is None, f"bit {bit % 8} of byte {bit // 8}"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda lines: lines[:1] + lines[2:], id="a record is gone"),
        pytest.param(lambda lines: [*lines[:-1], lines[1], lines[-1]], id="a record is there twice"),
        pytest.param(lambda lines: [lines[0], *lines[2:-1], lines[1], lines[-1]], id="the order is another"),
        pytest.param(lambda lines: lines[:-1], id="the last line is gone"),
        pytest.param(lambda lines: [*lines, lines[-1]], id="the last line is there twice"),
        pytest.param(lambda _lines: [b"[1]\n"], id="it is JSON of another kind"),
        pytest.param(lambda _lines: [b"\n"], id="it is an empty line"),
    ],
)
def test_a_file_with_lines_changed_is_as_good_as_nothing(tmp_path: Path, change: Any) -> None:
    path = append(tmp_path, 12)

    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))

    assert journal.read(tmp_path, 12, SETTINGS) is None


def test_a_step_collected_anew_replaces_the_first(tmp_path: Path) -> None:
    append(tmp_path, 12)

    append(tmp_path, 12, [{"anew": True}])

    assert journal.read(tmp_path, 12, SETTINGS) == [{"anew": True}]
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000012.jsonl"]


def test_a_number_that_json_cannot_hold_is_refused_and_the_step_stays_as_it_was(tmp_path: Path) -> None:
    append(tmp_path, 12, [{"first": True}])

    with pytest.raises(TypeError):
        append(tmp_path, 12, [{"complex": 1j}])

    assert journal.read(tmp_path, 12, SETTINGS) == [{"first": True}]


def test_pruning_deletes_up_to_the_step_and_keeps_what_follows(tmp_path: Path) -> None:
    for step in (9, 10, 11, 12):
        append(tmp_path, step)

    journal.prune(tmp_path, 10)

    assert journal.steps(tmp_path) == [11, 12]
    assert all(exact(journal.read(tmp_path, step, SETTINGS)) == exact(RECORDS) for step in (11, 12))


def test_pruning_before_the_first_step_keeps_all(tmp_path: Path) -> None:
    append(tmp_path, 1)

    journal.prune(tmp_path, 0)

    assert journal.steps(tmp_path) == [1]


def test_pruning_where_nothing_was_written_does_nothing(tmp_path: Path) -> None:
    journal.prune(tmp_path / "nothing", 10)

    assert not (tmp_path / "nothing").exists()


def test_what_a_killed_write_left_is_no_step_and_goes_with_its_step(tmp_path: Path) -> None:
    append(tmp_path, 10)
    (tmp_path / ".step_00000010.jsonl.0a1b2c3d.tmp").write_text("half a rec")

    assert journal.steps(tmp_path) == [10]
    journal.prune(tmp_path, 10)

    assert list(tmp_path.iterdir()) == []


def test_pruning_leaves_alone_what_is_being_written_meanwhile(tmp_path: Path) -> None:
    """A checkpoint is committed, and the journal pruned, in a thread beside the loop's, which journals later steps."""
    append(tmp_path, 10)
    under_way = tmp_path / ".step_00000013.jsonl.0a1b2c3d.tmp"
    under_way.write_text("half a rec")

    journal.prune(tmp_path, 10)

    assert list(tmp_path.iterdir()) == [under_way]


def test_pruning_leaves_other_files_alone(tmp_path: Path) -> None:
    for name in ("step_1.jsonl", "step_00000001.jsonl.bak", "notes.txt"):
        (tmp_path / name).touch()

    journal.prune(tmp_path, 10)

    assert len(list(tmp_path.iterdir())) == 3


def test_nobody_else_may_read_a_journal(tmp_path: Path) -> None:
    path = append(tmp_path / "journal", 1)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_exact_tells_what_an_equals_sign_does_not() -> None:
    assert exact(0.0) != exact(-0.0)
    assert exact(1) != exact(1.0)
    assert exact(True) != exact(1)
    assert exact(math.nan) == exact(math.nan)
