"""The job as a role of a run: its servers are other roles, and the supervisor counts what it has done."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from jobs import data, entry
from jobs.construct import job
from jobs.construct.settings import Settings
from orchestrator import rendezvous
from orchestrator.allocation import history
from orchestrator.errors import InputError
from orchestrator.files import read_json
from orchestrator.ledger import Ledger, read
from orchestrator.plan import Role
from orchestrator.rendezvous import Endpoint
from orchestrator.run_directory import RunDirectory
from tests.jobs.construct import work
from tests.jobs.construct.fake_teacher import FakeTeacher
from tests.orchestrator.allocation.runs import make_run

COUNT = 4


def run_of(folder: Path, **changes: object) -> RunDirectory:
    """Return a run with two services and the role ``build`` that needs them."""
    given = work.values(folder, "http://nowhere/v1", count=COUNT)
    given |= {"teacher": {"service": "big"}, "extractor": {"service": "small"}, **changes}
    services = [
        Role(name=name, job="judge", kind="service", settings={"model": f"{{made.{name}}}"}, after=("made",))
        for name in ("big", "small")
    ]
    made = Role(name="made", job="tiny", kind="batch")
    building = Role(name="build", job="construct", kind="batch", needs=("big", "small"), settings=given)
    run = make_run(folder, made, *services, building)
    rendezvous.publish_outputs(run, "made", {"big": "/models/big", "small": "/models/small"})
    return run


def publish(run: RunDirectory, url: str, folder: Path, *, generation: int = 1) -> None:
    for name in ("big", "small"):
        rendezvous.publish(
            run,
            Endpoint(
                name=name,
                url=url,
                model=name,
                api_key_file=str(work.key_file(folder)),
                generation=generation,
                nonce="n",
                pid=1,
                host="here",
                lease_until=time.time() + 600,
            ),
        )


def build(run: RunDirectory) -> int:
    context, settings = entry.start("construct", Settings, ["--run-dir", str(run.path), "--role", "build"])
    return job.build_with(work.checker(), context, settings, entry.Drain())


def test_services_are_asked_by_the_name_they_publish_and_known_by_their_model(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    with FakeTeacher() as server:
        publish(run, server.url, tmp_path)
        code = build(run)

    outputs = read_json(run.outputs / "build.json")
    assert code == 0
    assert outputs is not None
    assert outputs["rows"] == str(COUNT)
    assert len(data.load("geo3k", Path(outputs["data"]))) == COUNT
    assert {body["model"] for body in server.bodies} == {"big", "small"}
    answers = work.lines(run.role("build") / "responses.jsonl")
    assert {line["request"]["model"] for line in answers if line["event"] == "answer"} == {
        "/models/big",
        "/models/small",
    }


def test_a_service_that_publishes_late_is_waited_for(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    with FakeTeacher() as server:
        threading.Timer(0.5, publish, (run, server.url, tmp_path)).start()
        assert build(run) == 0


def test_an_attempt_that_got_answers_counts_as_progress(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    Ledger(run.ledger, 1).append("attempt_started")
    with FakeTeacher() as server:
        publish(run, server.url, tmp_path)
        build(run)
        first = history.attempts(read(run.ledger))
        (run.role("build") / "data.parquet").unlink()
        Ledger(run.ledger, 2).append("attempt_started")

    assert [attempt.progressed for attempt in first] == [True]
    assert [attempt.progressed for attempt in history.attempts(read(run.ledger))] == [True, False]


def test_a_role_that_is_no_service_of_the_recipe_is_named(tmp_path: Path) -> None:
    run = run_of(tmp_path, teacher={"service": "gone"})

    with pytest.raises(InputError, match=r"teacher\.service: The recipe has no role 'gone' with a model"):
        build(run)
