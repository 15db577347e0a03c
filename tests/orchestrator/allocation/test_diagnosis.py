from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.allocation import diagnosis
from orchestrator.allocation.diagnosis import Finding, Watch, first_error

TRACEBACK = [
    "step 1",
    "Traceback (most recent call last):",
    '  File "a.py", line 3, in <module>',
    "    main()",
    "ValueError: no images in row 7",
    "later",
]


def test_a_traceback_is_named_by_its_last_line() -> None:
    found = first_error(TRACEBACK, "train", "train.log")
    assert found == Finding(
        role="train",
        place="train.log:2",
        text="ValueError: no images in row 7",
        context="\n".join(TRACEBACK[1:5]),
    )


def test_the_first_of_two_errors_counts() -> None:
    found = first_error(["error: first.", *TRACEBACK], "train", "train.log")
    assert found is not None
    assert str(found) == "train: error: first. (train.log:1)"


@pytest.mark.parametrize(
    "line",
    [
        "loss 0.3, error: 0.1",
        "0 errors",
        "WARNING Error rate is low",
        "    ValueError: quoted inside something",
        "https://docs/errors: see there",
    ],
)
def test_lines_that_only_speak_of_errors_are_none(line: str) -> None:
    assert first_error([line], "train", "train.log") is None


@pytest.mark.parametrize(
    "line",
    [
        "RuntimeError: CUDA out of memory",
        "torch.OutOfMemoryError: CUDA out of memory",
        "(EngineCore pid=12) ERROR 11-21 10:18:18 [core.py:1510] RuntimeError: CUDA out of memory",
        "(Trainer pid=7) RuntimeError: CUDA out of memory",
    ],
)
def test_errors_are_found_behind_the_prefixes_of_ray_and_vllm(line: str) -> None:
    found = first_error([line], "train", "train.log")
    assert found is not None
    assert found.text.endswith("Error: CUDA out of memory")


def test_a_traceback_of_a_child_process_is_read_through_its_prefix() -> None:
    prefixed = [f"(EngineCore pid=12) ERROR 11-21 10:18:18 [core.py:1510] {line}" for line in TRACEBACK]
    found = first_error(prefixed, "judge", "judge-0.log")
    assert found is not None
    assert found.text == "ValueError: no images in row 7"


@pytest.mark.parametrize(
    ("code", "words"),
    [(-9, "killed by SIGKILL"), (-15, "killed by SIGTERM"), (3, "exit code 3"), (-33, "killed by signal 33")],
)
def test_an_end_is_put_into_words(code: int, words: str) -> None:
    assert diagnosis.end_of_process(code) == words


def make_watch(tmp_path: Path) -> tuple[Watch, Path]:
    folder = tmp_path / "1"
    folder.mkdir()
    return Watch(folder), folder


def test_errors_keep_the_order_in_which_they_appeared(tmp_path: Path) -> None:
    watch, folder = make_watch(tmp_path)
    (folder / "train.log").write_text("fine\n")
    (folder / "judge-0.log").write_text("RuntimeError: out of memory\n")
    watch.look("train", "train.log")
    watch.look("judge", "judge-0.log")
    with open(folder / "train.log", "a") as log:
        log.write("error: no judge\n")
    watch.look("train", "train.log")

    assert str(watch.earliest()) == "judge: RuntimeError: out of memory (attempts/1/judge-0.log:1)"
    assert watch.latest("train") == "error: no judge"


def test_line_numbers_count_from_the_logs_beginning(tmp_path: Path) -> None:
    watch, folder = make_watch(tmp_path)
    (folder / "train.log").write_text("one\ntwo\nthr")
    watch.look("train", "train.log")
    with open(folder / "train.log", "a") as log:
        log.write("ee\nerror: four\n")
    watch.look("train", "train.log")

    assert str(watch.earliest()) == "train: error: four (attempts/1/train.log:4)"


def test_a_traceback_that_is_still_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    watch, folder = make_watch(tmp_path)
    (folder / "train.log").write_text("\n".join(TRACEBACK[:4]) + "\n")
    watch.look("train", "train.log")
    assert watch.earliest() is None
    with open(folder / "train.log", "a") as log:
        log.write("\n".join(TRACEBACK[4:]) + "\n")
    watch.look("train", "train.log")

    found = watch.earliest()
    assert found is not None
    assert found.text == "ValueError: no images in row 7"


def test_a_role_that_was_killed_without_a_word_is_named_by_the_signal(tmp_path: Path) -> None:
    watch, folder = make_watch(tmp_path)
    (folder / "train.log").write_text("fine\n")
    watch.ended("train", "train.log", -9)
    assert str(watch.earliest()) == "train: killed by SIGKILL."


def test_the_last_line_counts_without_its_end(tmp_path: Path) -> None:
    watch, folder = make_watch(tmp_path)
    (folder / "train.log").write_text("error: cut off")
    watch.ended("train", "train.log", 1)
    assert str(watch.earliest()) == "train: error: cut off (attempts/1/train.log:1)"


def test_what_a_role_recovered_from_is_forgiven(tmp_path: Path) -> None:
    watch, folder = make_watch(tmp_path)
    watch.note("judge", "hung.")
    watch.note("train", "failed.")
    watch.forgive("judge")
    assert str(watch.earliest()) == "train: failed."
    assert folder.exists()
