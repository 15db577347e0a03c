"""Killed, stopped and started again: the same bytes, and no answer is paid for twice."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import entry
from jobs.construct.log import Log, Reply
from jobs.construct.request import Request
from tests.jobs.construct import work
from tests.jobs.construct.fake_teacher import FakeTeacher

COUNT = 30
IN_FLIGHT = 4


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 90
    while not true():
        assert time.monotonic() < until, "waited 90 s in vain"
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "asked to stop"])
def test_three_interruptions_change_no_byte_and_repeat_no_answered_request(
    tmp_path: Path, number: signal.Signals
) -> None:
    with FakeTeacher(after_s=0.03) as server:
        given = work.values(tmp_path, server.url, count=COUNT)
        work.build(tmp_path, given, "undisturbed")
        needed = set(server.asked)
        server.asked.clear()
        heard: dict[str, int] = {}
        for answered in (3, 31, 57):
            process = work.start(tmp_path, given)
            wait_for(lambda at=answered: sum(server.asked.values()) >= at)
            os.kill(process.pid, number)
            process.communicate(timeout=60)
            assert process.returncode == (entry.DRAINED if number == signal.SIGTERM else -signal.SIGKILL)
            assert not (tmp_path / "out/data.parquet").exists()
            for event in work.events(tmp_path, "answer"):
                heard.setdefault(event["key"], server.asked[event["key"]])
        code = work.build(tmp_path, given)

    assert code == 0
    for name in ("data.parquet", "failures.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    assert set(server.asked) == needed
    assert {key: server.asked[key] for key in heard} == heard
    # What a killed process had not heard the answer of is asked again; one that was asked to stop had heard all.
    repeated = sum(server.asked.values()) - len(needed)
    assert repeated <= (3 * 2 * IN_FLIGHT if number == signal.SIGKILL else 0)
    answers = [event["key"] for event in work.events(tmp_path, "answer")]
    assert len(answers) == len(set(answers)) == len(needed)


def test_a_log_that_was_cut_anywhere_leads_to_the_same_bytes(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        given = work.values(tmp_path, server.url, count=5)
        work.build(tmp_path, given, "undisturbed")
        whole = (tmp_path / "undisturbed/responses.jsonl").read_bytes()
        # In the first line, at the end of one, inside an answer, and one byte before the end.
        for cut in (1, whole.index(b"\n") + 1, whole.index(b'"answer"') + 3, len(whole) // 2, len(whole) - 1):
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            (tmp_path / "out").mkdir()
            (tmp_path / "out/responses.jsonl").write_bytes(whole[:cut])
            kept = {event["key"] for event in _whole_events(whole[:cut])}
            server.asked.clear()
            work.build(tmp_path, given)
            assert not kept & set(server.asked)
            for name in ("data.parquet", "failures.jsonl"):
                assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def _whole_events(text: bytes) -> list[dict[str, str]]:
    lines = text.split(b"\n")[:-1]
    return [event for line in lines if (event := json.loads(line))["event"] == "answer"]


def request(name: str) -> Request:
    messages = [{"role": "user", "content": name}]
    return Request(stage="distil", row=name, candidate=0, model="m", messages=messages, options={"max_tokens": 5})


REPLY = Reply(text="four \udcff", finish="stop", tokens_in=3, tokens_out=2)


def test_the_log_tells_what_it_was_told(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    with Log(path) as log:
        log.send(request("a"), 20)
        log.keep_now(request("a"), REPLY)
        log.send(request("b"), 20)
        log.refuse_now(request("b"), "status 400")
        log.send(request("c"), 20)
    with path.open("ab") as file:
        file.write(b'{"event": "answer", "key": "')
    with Log(path) as log:
        log.send(request("d"), 9)

    with Log(path) as log:
        said = log.answer(request("a").key)
        refused = log.answer(request("b").key)
        assert said is not None
        assert (said.text, said.finish) == (REPLY.text, "stop")
        assert refused is not None
        assert refused.refused == "status 400"
        assert log.answer(request("c").key) is None
        assert (log.answers, log.sent, log.spent("distil"), log.lost("distil")) == (2, 4, 5, 29)


def test_a_request_asked_by_two_attempts_may_have_been_paid_for_twice(tmp_path: Path) -> None:
    for _ in range(2):
        with Log(tmp_path / "responses.jsonl") as log:
            log.send(request("a"), 20)
    with Log(tmp_path / "responses.jsonl") as log:
        log.keep_now(request("a"), REPLY)
        assert (log.spent("distil"), log.lost("distil")) == (5, 40)

    with Log(tmp_path / "responses.jsonl") as log:
        assert (log.spent("distil"), log.lost("distil")) == (5, 20)


def test_a_verdict_is_about_one_true_answer(tmp_path: Path) -> None:
    with Log(tmp_path / "responses.jsonl") as log:
        asyncio.run(log.check("k", "5", None))
        assert (log.verdict("k", "5"), log.verdict("k", "6")) == ((None,), None)
    assert (tmp_path / "responses.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "extract"},
        {"row": "b"},
        {"candidate": 1},
        {"sample": 1},
        {"model": "n"},
        {"messages": [{"role": "user", "content": "b"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}], "images": (b"x",)},
        {"options": {"max_tokens": 6}},
    ],
    ids=lambda change: "-".join(change),
)
def test_whatever_can_change_the_reply_changes_the_key(change: dict[str, object]) -> None:
    other = Request(**{**{name: getattr(request("a"), name) for name in Request.__dataclass_fields__}, **change})

    assert other.key != request("a").key
    assert len(other.key) == 64
