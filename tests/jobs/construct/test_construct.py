"""The job against a real server in this process: what is kept, what is asked, what it costs, how it fails."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from aiohttp import web

from jobs import data, entry
from jobs.construct import job
from jobs.construct.log import Log
from orchestrator.errors import ConflictError, InputError, RunFailed
from orchestrator.files import read_json
from tests.jobs.construct import fake_teacher, work
from tests.jobs.construct.fake_teacher import FakeTeacher, completion, fails, stage_of

COUNT = 21
LOST = {"p5", "p10", "p15", "p20", "p7", "p14", "p21"}
"""Those divisible by five are never solved, of those divisible by seven no fact is found."""


def sums(folder: Path, out: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / out / "summary.json")
    return found


def test_right_solutions_become_rows_that_the_geo3k_source_reads(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        code = work.build(tmp_path, work.values(tmp_path, server.url, count=COUNT))

    examples = data.load("geo3k", tmp_path / "out/data.parquet")
    assert code == 0
    assert [example.id for example in examples] == [f"p{n}" for n in range(1, COUNT + 1) if f"p{n}" not in LOST]
    assert data.facts(examples[0].visual_key_info) == [
        "Side AB of figure 1 is labelled x.",
        "Point C1 lies on the circle.",
    ]
    assert examples[0].images == (work.picture(1),)
    assert examples[0].answer == "101"


def test_every_row_says_where_it_comes_from(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        work.build(tmp_path, work.values(tmp_path, server.url, count=3))
    row = pq.read_table(tmp_path / "out/data.parquet").to_pylist()[0]
    asked = {event["key"]: event for event in work.events(tmp_path, "answer")}

    assert row["models"] == {"distil": "teacher", "extract": "extractor", "verify": None}
    assert row["candidate"] == 1
    assert row["trajectory"] == fake_teacher.solution(1, 1)
    assert asked[row["requests"]["distil"][0]]["text"] == row["trajectory"]
    assert asked[row["requests"]["extract"][0]]["stage"] == "extract"
    assert row["dropped_facts"] == [{"fact": "The answer is 101.", "reason": "gives the answer away"}]
    assert len(row["prompts_sha256"]["distil"]) == len(row["sha256"]) == 64


def test_failures_are_listed_with_stage_and_reason_and_summed(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        work.build(tmp_path, work.values(tmp_path, server.url, count=COUNT))

    wrong = dict.fromkeys(["p5", "p10", "p15", "p20"], "answer: wrong")
    mute = dict.fromkeys(["p7", "p14", "p21"], "extract: no tags")
    assert work.failures(tmp_path) == wrong | mute
    assert [len(line["candidates"]) for line in work.lines(tmp_path / "out/failures.jsonl")] == [3] * 7
    summed = sums(tmp_path)
    assert (summed["problems"], summed["kept"], summed["lost"], summed["facts"]) == (COUNT, 14, 7, 28)
    assert summed["lost_because"] == {"answer: wrong": 4, "extract: no tags": 3}
    assert summed["facts_dropped"] == {"gives the answer away": 14}


def test_the_next_candidate_is_asked_for_only_if_one_cannot_be_used(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        work.build(tmp_path, work.values(tmp_path, server.url, count=6))

    asked = [(fake_teacher.number_of(body), stage_of(body)) for body in server.bodies]
    assert {n: asked.count((n, "distil")) for n in range(1, 7)} == {1: 2, 2: 1, 3: 2, 4: 1, 5: 3, 6: 1}
    assert {n: asked.count((n, "extract")) for n in range(1, 7)} == {1: 1, 2: 1, 3: 1, 4: 1, 5: 0, 6: 1}


def test_all_candidates_can_be_asked_for_at_once_and_the_first_right_one_is_taken(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        given = work.values(tmp_path, server.url, count=4)
        work.build(tmp_path, given, "one by one")
        given["distil"]["ask"] = "all"
        work.build(tmp_path, given, "all")

    first, second = (tmp_path / out / "data.parquet" for out in ("one by one", "all"))
    assert first.read_bytes() == second.read_bytes()
    assert len([body for body in server.bodies if stage_of(body) == "distil"]) == (2 + 1 + 2 + 1) + 4 * 3


def test_the_teacher_sees_the_image_in_its_place_and_the_extractor_none(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        work.build(tmp_path, work.values(tmp_path, server.url, count=2))
    teacher = next(body for body in server.bodies if stage_of(body) == "distil")
    extractor = next(body for body in server.bodies if stage_of(body) == "extract")

    image, text = teacher["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert text["text"].startswith("Problem ")
    assert "image_url" not in json.dumps(extractor)
    assert teacher["max_tokens"] == 100
    assert extractor["temperature"] == 0


def test_a_verifier_can_take_facts_out(tmp_path: Path) -> None:
    async def doubts(_request: web.Request, body: dict[str, Any]) -> web.StreamResponse | None:
        verdict = "<info1>1</info1><info2>0</info2>"
        return web.json_response(completion(verdict)) if stage_of(body) == "verify" else None

    with FakeTeacher(doubts) as server:
        given = work.values(tmp_path, server.url, count=2, facts={"least": 1})
        given["verify"] = {"endpoint": given["teacher"], "against": "image", "votes": 2, "agreement": 1.0}
        work.build(tmp_path, given)

    rows = pq.read_table(tmp_path / "out/data.parquet").to_pylist()
    assert [data.facts(row["visual_key_info"]) for row in rows] == [
        ["Side AB of figure 1 is labelled x."],
        ["Side AB of figure 2 is labelled x."],
    ]
    assert rows[0]["dropped_facts"][-1] == {"fact": "Point C1 lies on the circle.", "reason": "not confirmed"}
    asked = [body for body in server.bodies if stage_of(body) == "verify"]
    assert len(asked) == 4
    assert all("image_url" in json.dumps(body) for body in asked)


def test_no_more_requests_are_under_way_than_allowed(tmp_path: Path) -> None:
    with FakeTeacher(after_s=0.02) as server:
        given = work.values(tmp_path, server.url, count=COUNT)
        for endpoint in ("teacher", "extractor"):
            given[endpoint]["max_in_flight"] = 2
        work.build(tmp_path, given)

    assert 2 <= server.most_at_once <= 4


def test_a_second_start_asks_nothing_and_writes_the_same(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        given = work.values(tmp_path, server.url, count=COUNT)
        work.build(tmp_path, given)
        before, asked = (tmp_path / "out/data.parquet").read_bytes(), len(server.bodies)
        (tmp_path / "out/data.parquet").unlink()
        work.build(tmp_path, given)

    assert (tmp_path / "out/data.parquet").read_bytes() == before
    assert len(server.bodies) == asked


def test_another_run_goes_on_from_a_log_outside_of_it(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        given = work.values(tmp_path, server.url, count=4, responses=str(tmp_path / "kept/responses.jsonl"))
        work.build(tmp_path, given, "one")
        asked = len(server.bodies)
        work.build(tmp_path, {**given, "facts": {"least": 3, "leak": "off"}}, "two")

    assert len(server.bodies) == asked
    assert [len(data.facts(e.visual_key_info)) for e in data.load("geo3k", tmp_path / "two/data.parquet")] == [3] * 4


def test_failed_requests_are_asked_again_and_refused_ones_are_not(tmp_path: Path) -> None:
    async def step(_request: web.Request, body: dict[str, Any]) -> web.StreamResponse | None:
        number = fake_teacher.number_of(body)
        return await fails(400, text="content")(_request, body) if number == 2 else await fail_twice(_request, body)

    fail_twice = fails(500, times=2)
    with FakeTeacher(step) as server:
        work.build(tmp_path, work.values(tmp_path, server.url, count=4))

    assert work.failures(tmp_path) == {"p2": "distil: refused"}
    assert sorted(server.asked.values())[-1] <= 3
    refused = work.lines(tmp_path / "out/failures.jsonl")[0]["candidates"][0]
    assert "status 400" in refused["detail"]
    assert sum(server.asked.values()) == sum(server.answered.values()) + 2 + 3


def test_a_busy_server_is_given_time(tmp_path: Path) -> None:
    with FakeTeacher(fails(429, times=3, headers={"Retry-After": "0.05"})) as server:
        work.build(tmp_path, work.values(tmp_path, server.url, count=2))

    assert work.failures(tmp_path) == {}
    assert sums(tmp_path)["tokens_without_answer"] == {"distil": 0, "extract": 0, "verify": 0}


def test_problems_without_an_answer_are_an_error_and_are_asked_for_again(tmp_path: Path) -> None:
    async def broken(_request: web.Request, body: dict[str, Any]) -> web.StreamResponse | None:
        return await fails(500)(_request, body) if fake_teacher.number_of(body) == 2 else None

    given: dict[str, Any] = {}
    with FakeTeacher(broken) as server:
        given = work.values(tmp_path, server.url, count=4)
        given["teacher"] |= {"attempts": 2}
        with pytest.raises(
            RunFailed, match=r"1 of 4 problems have no answer of 'teacher' \(status 500.*asks for these"
        ):
            work.build(tmp_path, given)
    assert work.failures(tmp_path) == {"p2": "distil: unanswered"}
    assert not (tmp_path / "out/data.parquet").exists()

    with FakeTeacher() as server:
        given["teacher"]["url"] = given["extractor"]["url"] = server.url
        work.build(tmp_path, given)
    assert {fake_teacher.number_of(body) for body in server.bodies} == {2}
    assert work.failures(tmp_path) == {}


def test_a_few_problems_without_an_answer_can_be_allowed(tmp_path: Path) -> None:
    async def broken(_request: web.Request, body: dict[str, Any]) -> web.StreamResponse | None:
        return await fails(500)(_request, body) if fake_teacher.number_of(body) == 2 else None

    with FakeTeacher(broken) as server:
        given = work.values(tmp_path, server.url, count=4, unanswered_max=0.25)
        given["teacher"] |= {"attempts": 1}
        code = work.build(tmp_path, given)

    assert code == 0
    assert len(data.load("geo3k", tmp_path / "out/data.parquet")) == 3


def test_a_server_that_went_away_is_waited_for(tmp_path: Path) -> None:
    with FakeTeacher(fails(503, times=3)) as server:
        work.build(tmp_path, work.values(tmp_path, server.url, count=2))

    assert work.failures(tmp_path) == {}
    assert server.probes >= 1


def test_a_key_that_is_refused_ends_the_job_and_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeTeacher() as server:
        given = work.values(tmp_path, server.url, count=4)
        Path(given["teacher"]["api_key_file"]).write_text("sk-wrong")
        with pytest.raises(
            InputError, match=r"^teacher: http\S+ refuses us: status 401: .* Correct model or api_key_file"
        ):
            work.build(tmp_path, given)

    assert "sk-wrong" not in capsys.readouterr().err


def test_the_key_is_in_no_file_of_the_job(tmp_path: Path) -> None:
    async def tells(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(completion(f"<answer>\\boxed{{101}} {fake_teacher.KEY}</answer>"))

    no_row = pytest.raises(RunFailed, match=r"No problem of 1 could be annotated; most often: extract: no tags")
    with FakeTeacher(tells) as server, no_row:
        work.build(tmp_path, work.values(tmp_path, server.url, count=1))

    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert tmp_path / "out/responses.jsonl" in written
    assert not [path for path in written if fake_teacher.KEY.encode() in path.read_bytes()]


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    given = work.values(tmp_path, "http://127.0.0.1:1/v1", count=1)
    Path(given["teacher"]["api_key_file"]).chmod(0o644)

    with pytest.raises(InputError, match=r"has mode 0644 and may be read by others\. Own it and run: chmod 600"):
        work.build(tmp_path, given)


@pytest.mark.slow
def test_a_spent_budget_ends_with_a_sentence_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        given = work.values(tmp_path, server.url, count=COUNT)
        given["teacher"]["budget_tokens"] = 3000
        with pytest.raises(job.BudgetSpent, match=r"teacher.budget_tokens=3000 is used up; \d+ problems are annotated"):
            work.build(tmp_path, given)
        spent, paid = sums(tmp_path)["tokens"]["distil"], len(server.bodies)
        given["teacher"]["budget_tokens"] = 100_000
        work.build(tmp_path, given)
        work.build(tmp_path, work.values(tmp_path, server.url, count=COUNT), "undisturbed")

    assert 2700 <= spent <= 3000
    assert paid < len(server.bodies)
    assert (tmp_path / "out/data.parquet").read_bytes() == (tmp_path / "undisturbed/data.parquet").read_bytes()
    # Once by either of the two.
    assert set(server.asked.values()) == {2}


def test_a_spent_budget_can_finish_with_what_there_is(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        given = work.values(tmp_path, server.url, count=COUNT, when_spent="finish")
        given["teacher"]["budget_tokens"] = 3000
        code = work.build(tmp_path, given)

    rows = len(data.load("geo3k", tmp_path / "out/data.parquet"))
    assert code == 0
    assert 0 < rows < COUNT - len(LOST)
    assert "not reached" in work.failures(tmp_path).values()


def test_a_reply_that_breaks_off_counts_as_paid_for(tmp_path: Path) -> None:
    broken = False

    async def breaks_off(request: web.Request, _body: dict[str, Any]) -> web.StreamResponse | None:
        nonlocal broken
        if broken:
            return None
        broken = True
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"choices": [')
        assert request.transport is not None
        request.transport.abort()
        return response

    with FakeTeacher(breaks_off) as server:
        work.build(tmp_path, work.values(tmp_path, server.url, count=2))

    assert sums(tmp_path)["tokens_without_answer"]["distil"] > 100
    assert work.failures(tmp_path) == {}


def test_a_solution_that_was_cut_off_is_not_used(tmp_path: Path) -> None:
    async def cuts(_request: web.Request, body: dict[str, Any]) -> web.StreamResponse | None:
        if stage_of(body) != "distil" or body["seed"] > 0:
            return None
        return web.json_response(completion(fake_teacher.solution(2, 0), finish="length"))

    with FakeTeacher(cuts) as server:
        work.build(tmp_path, work.values(tmp_path, server.url, count=2))

    assert sums(tmp_path)["candidates_rejected"] == {"distil: cut off": 2}


def test_two_jobs_cannot_use_one_log(tmp_path: Path) -> None:
    given = work.values(tmp_path, "http://127.0.0.1:1/v1", count=1)

    with Log(tmp_path / "out/responses.jsonl"), pytest.raises(ConflictError, match="Another process has this log open"):
        work.build(tmp_path, given)


def test_a_service_needs_a_run(tmp_path: Path) -> None:
    given = work.values(tmp_path, "http://127.0.0.1:1/v1", count=1)

    with pytest.raises(InputError, match=r"teacher.service: 'big' is a role, and a job started by hand has none"):
        work.build(tmp_path, given | {"teacher": {"service": "big"}})


@pytest.mark.slow
def test_told_to_stop_it_waits_for_the_answers_on_their_way(tmp_path: Path) -> None:
    with FakeTeacher(after_s=0.2) as server:
        given = work.values(tmp_path, server.url, count=COUNT)
        drain = entry.Drain()
        running = ThreadPoolExecutor().submit(work.build, tmp_path, given, drain=drain)
        wait_for(lambda: bool(server.bodies))
        drain.requested = True
        assert running.result(60) == entry.DRAINED
        assert not (tmp_path / "out/data.parquet").exists()
        assert len(work.events(tmp_path, "answer")) == len(server.bodies)
        assert work.build(tmp_path, given) == 0

    assert set(server.asked.values()) == {1}


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until, "waited 60 s in vain"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_signal_drains_the_process(tmp_path: Path) -> None:
    with FakeTeacher(after_s=0.3) as server:
        process = work.start(tmp_path, work.values(tmp_path, server.url, count=COUNT))
        wait_for(lambda: bool(server.bodies))
        os.kill(process.pid, signal.SIGUSR2)
        _, talk = process.communicate(timeout=60)

    assert process.returncode == entry.DRAINED, talk
    assert f"of {COUNT} problems annotated with" in talk
