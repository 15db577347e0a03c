from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from eval import by_hand
from eval.settings import Settings
from jobs.grpo import checkpoint
from jobs.grpo.checkpoint import State
from orchestrator.errors import InputError, NotFound


def read(arguments: list[str]) -> dict[str, Any]:
    """Return the settings that the arguments mean, as they lie in the output folder."""
    forms = by_hand.settled(arguments)
    assert forms[::2] == ["--settings", "--out"]
    settings: dict[str, Any] = yaml.safe_load(Path(forms[1]).read_text(encoding="utf-8"))
    Settings.model_validate(settings)
    return settings


def test_a_model_on_a_task(tmp_path: Path) -> None:
    line = f"--task geometry3k --model org/Tiny-VL --data test.parquet --limit 5 --out {tmp_path}"

    assert read(line.split()) == {
        "models": {"Tiny-VL": "org/Tiny-VL"},
        "tasks": {"geometry3k": {"source": "geo3k", "path": "test.parquet", "limit": 5}},
    }


def test_settings_are_changed_by_their_names(tmp_path: Path) -> None:
    words = ["engine=vllm", "vllm.max_num_seqs=8", "seeds=[1, 2]", "temperature=0.6", "task.prompt=Count {question}."]
    line = ["--task", "pixmo_count", "--model", "m", "--data", "x.jsonl", "--out", str(tmp_path)]

    settings = read([*line, *(part for word in words for part in ("--with", word))])

    assert settings["vllm"] == {"max_num_seqs": 8}
    assert (settings["engine"], settings["seeds"], settings["temperature"]) == ("vllm", [1, 2], 0.6)
    assert settings["tasks"]["pixmo_count"]["prompt"] == "Count {question}."


def test_a_server_is_known_by_its_model_or_address(tmp_path: Path) -> None:
    line = f"--task refcoco --data a.json --out {tmp_path} --endpoint http://node7:8000/v1"

    assert read(line.split())["models"] == {"node7-8000": {"url": "http://node7:8000/v1"}}
    assert read(f"{line} --endpoint-model org/Big --api-key-file key".split())["models"] == {
        "org-Big": {"url": "http://node7:8000/v1", "api_key_file": "key", "model": "org/Big"}
    }


def test_without_an_output_folder_the_names_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    by_hand.settled(["--task", "refcoco", "--model", "org/Tiny", "--data", "a.json", "--label", "mine"])

    assert (tmp_path / "evaluations/refcoco-mine/settings.yaml").is_file()


@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [
        pytest.param("mathvista", "vlmevalkit:a.tsv", ("vlmevalkit", "a.tsv"), id="a source and a path"),
        pytest.param("refcoco", "/data/val.json", ("refcoco", "/data/val.json"), id="the task is a source"),
        pytest.param("geometry3k", "a.parquet", ("geo3k", "a.parquet"), id="or has one"),
        pytest.param("x", "my.module:load:a:b", ("my.module:load", "a:b"), id="a function of one's own"),
        pytest.param("refcoco", "a.json:b.json", ("refcoco", "a.json:b.json"), id="several files"),
    ],
)
def test_where_problems_come_from(task: str, text: str, expected: tuple[str, str]) -> None:
    assert by_hand.source_and_path(task, text) == expected


def test_a_task_that_is_no_source_needs_one() -> None:
    with pytest.raises(InputError, match=r"'a\.tsv' names no source, and 'mybench' is none\. Write SOURCE:PATH"):
        by_hand.source_and_path("mybench", "a.tsv")


def commit(run: Path, step: int) -> None:
    """Make a checkpoint of a run, with a model that has one file."""
    folder = checkpoint.begin(run / "checkpoints", step)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    checkpoint.commit(folder, State(step=step), 1, lambda: None)


@pytest.mark.parametrize(
    ("named", "step"), [pytest.param("", 20, id="the newest"), pytest.param(":10", 10, id="one by its step")]
)
def test_a_checkpoint_is_a_model(tmp_path: Path, named: str, step: int) -> None:
    run = tmp_path / "geo3k"
    for number in (10, 20):
        commit(run, number)

    label, folder = by_hand.checkpoint_model(f"{run}{named}")

    assert label == f"geo3k-step{step}"
    assert folder == run / "checkpoints" / f"step_{step:08d}" / "model"


def test_a_run_may_be_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(tmp_path / "runs/geo3k", 10)
    monkeypatch.chdir(tmp_path)

    settings = read(f"--task geo3k --checkpoint geo3k:10 --data a.parquet --out {tmp_path / 'out'}".split())

    assert settings["models"] == {"geo3k-step10": str(tmp_path / "runs/geo3k/checkpoints/step_00000010/model")}


def test_a_damaged_checkpoint_is_not_evaluated(tmp_path: Path) -> None:
    commit(tmp_path, 10)
    (tmp_path / "checkpoints/step_00000010/model/config.json").write_text("[]")

    with pytest.raises(InputError, match=r"config\.json does not have the SHA-256 of its manifest\. Choose another"):
        by_hand.checkpoint_model(f"{tmp_path}:10")


def test_a_run_without_checkpoints_has_none_to_evaluate(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"has no checkpoints\. Give a run's folder"):
        by_hand.checkpoint_model(str(tmp_path))


def test_a_step_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()

    with pytest.raises(NotFound, match=r"no checkpoint of step 40\. There is none yet"):
        by_hand.checkpoint_model(f"{tmp_path}:40")
    with pytest.raises(InputError, match="'forty' is not a step"):
        by_hand.checkpoint_model(f"{tmp_path}:forty")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("--task t --data a", r"One of --model, --endpoint and --checkpoint .* got nothing", id="no model"),
        pytest.param("--task t --data a --model m --endpoint http://x", "got --model and --endpoint", id="two models"),
        pytest.param("--task t --model m", "The problems' file is missing", id="no data"),
        pytest.param("--task geo3k --model m --data a --with engine", "'engine' is not key=value", id="no value"),
        pytest.param("--task geo3k --model m --data a --with n=1 --with n.x=1", "lies below n", id="below a number"),
    ],
)
def test_words_that_make_no_sense_are_told(line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        by_hand.settled([*line.split(), "--out", str(tmp_path)])


def test_words_of_one_form_are_not_taken_for_another(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        by_hand.settled(["--settings", "a.yaml", "--out", "o", "--limit", "3"])
    assert "--limit goes with --task" in capsys.readouterr().err

    with pytest.raises(SystemExit):
        by_hand.settled(["--task", "t", "--run-dir", "r"])
    assert "--task goes with neither" in capsys.readouterr().err


def test_the_other_forms_pass_as_they_are() -> None:
    assert by_hand.settled(["--run-dir", "r", "--role", "eval"]) == ["--run-dir", "r", "--role", "eval"]
    assert by_hand.settled(["--out", "o", "--settings", "s"]) == ["--settings", "s", "--out", "o"]


def test_what_is_written_is_private(tmp_path: Path) -> None:
    by_hand.settled(f"--task geo3k --model m --data a --out {tmp_path / 'out'}".split())

    assert (tmp_path / "out/settings.yaml").stat().st_mode & 0o077 == 0
