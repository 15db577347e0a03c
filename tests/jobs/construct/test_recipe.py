"""The tiny recipe from submit to parquet: tiny models behind vLLM, and how true the facts are that they find."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import data
from orchestrator import control
from orchestrator.files import read_json
from orchestrator.run_directory import RunDirectory
from tests import demo
from tests.jobs.construct import work

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    runs = tmp_path_factory.mktemp("runs")
    done = demo.orchestrator("submit", "recipes/construct-tiny.yaml", "--follow", runs=runs, timeout_s=2300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return RunDirectory(runs / "construct-tiny")


def outputs(run: RunDirectory, role: str) -> dict[str, str]:
    found = read_json(run.outputs / f"{role}.json")
    assert found is not None
    return dict(found)


def test_it_succeeds_and_leaves_no_process(run: RunDirectory) -> None:
    assert control.state(run).state == "SUCCEEDED"
    assert demo.processes_of(run) == []


def test_most_scenes_are_annotated_and_most_facts_are_true(run: RunDirectory) -> None:
    scenes = data.load("geo3k", Path(outputs(run, "tiny")["train_data"]))
    true = {scene.id: set(data.facts(scene.visual_key_info)) for scene in scenes}
    annotated = data.load("geo3k", Path(outputs(run, "construct")["data"]))

    facts = [(example.id, fact) for example in annotated for fact in data.facts(example.visual_key_info)]

    right = sum(fact in true[name] for name, fact in facts)
    assert len(annotated) >= 50
    assert right / len(facts) >= 0.8


def test_no_request_was_answered_twice_and_every_failure_is_listed(run: RunDirectory) -> None:
    folder = Path(outputs(run, "construct")["data"]).parent
    answers = [line["key"] for line in work.lines(folder / "responses.jsonl") if line["event"] == "answer"]

    assert len(answers) == len(set(answers))
    assert len(work.lines(folder / "failures.jsonl")) == 100 - int(outputs(run, "construct")["rows"])


def test_keys_are_nowhere_but_in_their_files(run: RunDirectory) -> None:
    keys = [path.read_text().strip().encode() for path in run.secrets.iterdir()]
    files = [p for p in run.path.rglob("*") if p.is_file() and not p.is_symlink() and p.parent != run.secrets]

    assert keys
    assert [str(path) for path in files if any(key in path.read_bytes() for key in keys)] == []
