"""Batch files: written, answered as ``vllm run-batch`` answers, read back; the job goes on from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.construct import batch
from orchestrator.errors import InputError, NotFound
from tests.jobs.construct import fake_teacher, work
from tests.jobs.construct.fake_teacher import FakeTeacher, completion

COUNT = 12
NOWHERE = "http://127.0.0.1:1/v1"


def run(folder: Path, given: dict[str, Any], command: str, file: Path, *more: str) -> None:
    parsed, _ = batch.parsed_arguments([command, str(file), *more])
    context, settings = work.context(folder, given)
    context.progress.update(command, message=batch.run(parsed, work.checker(), context, settings))


def answered(file: Path, folder: Path, *, failing: tuple[int, ...] = (), status: int = 500) -> Path:
    """Answer a batch file, in the form and order of none in particular, and return the file of results."""
    results = []
    for line in work.lines(file):
        assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
        body = line["body"]
        fails = fake_teacher.number_of(body) in failing
        content = {"error": {"message": "no"}} if fails else completion(fake_teacher.reply(body))
        response = {"status_code": status if fails else 200, "request_id": "r", "body": content}
        error = {"message": "no"} if fails else None
        results.append({"id": "vllm-1", "custom_id": line["custom_id"], "response": response, "error": error})
    path = folder / f"{file.stem}-results.jsonl"
    path.write_text("".join(json.dumps(result) + "\n" for result in reversed(results)))
    return path


@pytest.mark.slow
def test_batches_alone_lead_to_the_same_bytes_as_the_servers(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        work.build(tmp_path, work.values(tmp_path, server.url, count=COUNT), "online")
    given = work.values(tmp_path, NOWHERE, count=COUNT)
    rounds = 0
    while rounds < 20:
        written = 0
        for stage in ("distil", "extract"):
            file = tmp_path / f"{rounds}-{stage}.jsonl"
            try:
                run(tmp_path, given, "batch-write", file, "--stage", stage)
            except InputError:
                continue
            run(tmp_path, given, "batch-read", answered(file, tmp_path))
            written += 1
        rounds += 1
        if not written:
            break

    code = work.build(tmp_path, given)

    assert code == 0
    # Three candidates, and of each two tries at its facts, one after the other.
    assert rounds <= 7
    for name in ("data.parquet", "failures.jsonl"):
        online = (tmp_path / "online" / name).read_bytes()
        # The settings differ in the server's address only, which is no part of the data.
        assert (tmp_path / "out" / name).read_bytes() == online


def test_the_job_asks_only_for_what_no_batch_brought(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        given = work.values(tmp_path, server.url, count=COUNT)
        file = tmp_path / "distil.jsonl"
        run(tmp_path, given, "batch-write", file, "--stage", "distil")
        run(tmp_path, given, "batch-read", answered(file, tmp_path))
        work.build(tmp_path, given)

    brought = {line["custom_id"] for line in work.lines(file)}
    assert len(brought) == COUNT
    assert not brought & set(server.asked)


def test_the_job_does_not_start_while_results_are_awaited(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        given = work.values(tmp_path, server.url, count=2)
        file = tmp_path / "distil.jsonl"
        run(tmp_path, given, "batch-write", file, "--stage", "distil")
        with pytest.raises(InputError, match=r"2 requests stand in batch files .*distil\.jsonl\. Read them"):
            work.build(tmp_path, given)
        assert not server.bodies
        run(tmp_path, given, "batch-withdraw", file)
        assert work.build(tmp_path, given) == 0


def test_a_request_is_written_to_one_batch_file_only(tmp_path: Path) -> None:
    given = work.values(tmp_path, NOWHERE, count=2)
    run(tmp_path, given, "batch-write", tmp_path / "a.jsonl", "--stage", "distil")

    with pytest.raises(InputError, match=r"No request of stage 'distil' can be asked now\. Waiting: 2 of distil\."):
        run(tmp_path, given, "batch-write", tmp_path / "b.jsonl", "--stage", "distil")
    with pytest.raises(InputError, match=r"a\.jsonl: The file exists"):
        run(tmp_path, given, "batch-write", tmp_path / "a.jsonl", "--stage", "distil")


def test_results_that_failed_are_asked_again_and_refused_ones_are_final(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = work.values(tmp_path, NOWHERE, count=4)
    given["distil"]["candidates"] = 1
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    run(tmp_path, given, "batch-write", first, "--stage", "distil")
    run(tmp_path, given, "batch-read", answered(first, tmp_path, failing=(2,)))
    assert "3 answers, 1 failed and to be asked again" in capsys.readouterr().err

    run(tmp_path, given, "batch-write", second, "--stage", "distil")
    assert len(work.lines(second)) == 1
    run(tmp_path, given, "batch-read", answered(second, tmp_path, failing=(2,), status=400))
    assert "1 refused" in capsys.readouterr().err
    with pytest.raises(InputError, match="No request of stage 'distil'"):
        run(tmp_path, given, "batch-write", tmp_path / "third.jsonl", "--stage", "distil")


def test_results_of_others_and_repeated_ones_are_counted_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = work.values(tmp_path, NOWHERE, count=2)
    file = tmp_path / "distil.jsonl"
    run(tmp_path, given, "batch-write", file, "--stage", "distil")
    results = answered(file, tmp_path)
    with results.open("a") as more:
        more.write(json.dumps({"custom_id": "foreign", "response": None, "error": None}) + "\n")

    run(tmp_path, given, "batch-read", results)
    assert "2 answers, 1 not ours or known already" in capsys.readouterr().err
    run(tmp_path, given, "batch-read", results)

    assert "3 not ours or known already" in capsys.readouterr().err
    assert len(work.events(tmp_path, "answer")) == 2


def test_a_large_batch_comes_in_parts(tmp_path: Path) -> None:
    given = work.values(tmp_path, NOWHERE, count=5)
    file = tmp_path / "distil.jsonl"
    run(tmp_path, given, "batch-write", file, "--stage", "distil", "--part-mb", "0.0025")

    parts = sorted(tmp_path.glob("distil*.jsonl"))
    assert len(parts) > 1
    assert sum(len(work.lines(part)) for part in parts) == 5
    assert all(part.stat().st_size <= 2500 for part in parts)


def test_the_commands_are_run_by_the_job_itself(tmp_path: Path) -> None:
    given = work.values(tmp_path, NOWHERE, count=2)
    process = work.start(tmp_path, given, "batch-write", "--stage", "distil", str(tmp_path / "distil.jsonl"))

    _, talk = process.communicate(timeout=60)

    assert process.returncode == 0, talk
    assert f"batch-write: 2 requests of stage distil in {tmp_path}/distil.jsonl" in talk


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    given = work.values(tmp_path, NOWHERE, count=1)
    (tmp_path / "bad.jsonl").write_text("{}\nnonsense\n")

    with pytest.raises(NotFound, match="no such file of results"):
        run(tmp_path, given, "batch-read", tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"bad\.jsonl:2: Not JSON"):
        run(tmp_path, given, "batch-read", tmp_path / "bad.jsonl")
