"""Whole evaluations against a small server, from the command's words to the summary."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from eval import record
from eval.run import main
from eval.target import Space, Target
from jobs.data import Example
from tests.eval.fake_server import FakeServer, Reply, said, status

SPACE = Space(system="pixel", width_px=100, height_px=100)


def mixed(_: Path) -> list[Example]:
    """A source of problems: letters, a box, a count."""
    letters = [
        Example(id=f"c{k}", problem=f"Choose {'ABCD'[k]}.", answer="ABCD"[k], images=(), kind="choice",
                meta={"choices": ["one", "two", "three", "four"]})
        for k in range(4)
    ]  # fmt: skip
    box = Target(space=SPACE, boxes=((10, 10, 50, 50),))
    return [
        *letters,
        Example(id="g0", problem="Where?", answer="[10, 10, 50, 50]", images=(), kind="grounding", target=box),
    ]


def right(body: dict[str, Any]) -> str:
    asked = re.search(r"Choose (\w)", said(body))
    return f"<answer>{asked[1]}</answer>" if asked else "[10, 10, 50, 40]"


@contextmanager
def served(reply: Reply, **more: Any) -> Iterator[FakeServer]:
    """Run the server in a thread with a loop of its own, as the command has one too."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = FakeServer(reply, **more)
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def run(server: FakeServer, out: Path, *more: str) -> int:
    line = f"--task mixed --data tests.eval.test_run_endpoint:mixed:{out} --endpoint {server.url} --label after"
    return main([*line.split(), "--out", str(out), "--with", "format_prompt=''", *more])


def rows(out: Path) -> list[dict[str, Any]]:
    return [dict(row) for _, row in record.json_lines(out / "eval/after/mixed/samples.jsonl")]


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "eval/after/mixed/summary.json").read_text())
    return found


def test_every_kind_of_problem_is_measured_its_own_way(tmp_path: Path) -> None:
    with served(right) as server:
        assert run(server, tmp_path) == 0

    found = {row["id"]: row for row in rows(tmp_path)}
    assert list(found) == ["c0", "c1", "c2", "c3", "g0"]
    assert (found["c1"]["extracted"], found["c1"]["correct"], found["c1"]["kind"]) == ("B", True, "choice")
    assert found["g0"]["parts"]["iou"] == pytest.approx(0.75)
    assert found["g0"]["target"]["boxes"] == [[10.0, 10.0, 50.0, 50.0]]
    assert found["g0"]["prediction"]
    assert "format" in found["c0"]["parts"]
    assert "format" not in found["g0"]["parts"]


def test_the_summary_says_what_was_done_with_what(tmp_path: Path) -> None:
    with served(right) as server:
        run(server, tmp_path)

    found = summary(tmp_path)
    assert (found["n"], found["answers"], found["correct"], found["accuracy"]) == (5, 5, 5, 1.0)
    assert found["aggregate"]["grounding"]
    assert found["kinds"] == ["choice", "grounding"]
    assert found["engine"] == {"url": server.url, "served_model": "m", "served_weights": "/models/m"}
    assert (found["seeds"], found["judge"], found["model_sha256"]) == ([0], None, None)
    assert found["decoding"]["temperature"] == 0
    assert {"orchestrator", "python", "numpy"} <= set(found["versions"])
    assert found["data"]["source"] == "tests.eval.test_run_endpoint:mixed"


def test_an_evaluation_that_failed_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails_once(body: dict[str, Any]) -> Any:
        return status(400, "not now") if "Choose C" in said(body) else right(body)

    more = ("--with", "models.after.concurrency=1")
    with served(fails_once) as first:
        assert run(first, tmp_path, *more) == 2
    kept = [row["id"] for row in rows(tmp_path)]
    with served(right) as second:
        assert run(second, tmp_path, *more) == 0

    assert "problem 'c2': the server refuses it: status 400" in capsys.readouterr().err
    assert kept == ["c0", "c1"]
    assert [said(body) for body in second.bodies] == ["Choose C.", "Choose D.", "Where?"]
    assert [row["id"] for row in rows(tmp_path)] == ["c0", "c1", "c2", "c3", "g0"]


def test_more_problems_are_added_to_those_that_are_answered(tmp_path: Path) -> None:
    with served(right) as server:
        run(server, tmp_path, "--limit", "2")
        few = summary(tmp_path)["n"]
        run(server, tmp_path)

    assert (few, summary(tmp_path)["n"], len(server.bodies)) == (2, 5, 5)


def test_another_model_at_the_address_does_not_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served(right) as first:
        run(first, tmp_path, "--limit", "2")
    with served(right, models=("other",)) as second:
        code = run(second, tmp_path)

    assert code == 3
    assert "begun with another served model" in capsys.readouterr().err
    assert len(second.bodies) == 0


def test_what_was_finished_is_not_asked_again(tmp_path: Path) -> None:
    with served(right) as server:
        run(server, tmp_path)
        asked = len(server.bodies)
        assert run(server, tmp_path) == 0

    assert len(server.bodies) == asked == 5


def test_pass_at_k_of_several_samples(tmp_path: Path) -> None:
    def every_other(body: dict[str, Any]) -> str:
        return right(body) if body["seed"] % 2 else "no idea"

    more = ("--with", "temperature=1.0", "--with", "n=4", "--with", "seeds=[1, 2]", "--limit", "4")
    with served(every_other) as server:
        assert run(server, tmp_path, *more) == 0

    found = summary(tmp_path)
    by_hand = sum(bool(body["seed"] % 2) for body in server.bodies)
    assert (found["n"], found["answers"], found["correct"]) == (4, 32, by_hand)
    assert list(found["pass_at_k"]) == ["1", "2", "4", "8"]
    assert found["pass_at_k"]["1"]["estimate"] == pytest.approx(by_hand / 32, abs=1e-5)


def test_problems_that_changed_are_not_mixed_with_old_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(right) as server:
        run(server, tmp_path)
        file = tmp_path / "eval/after/mixed/samples.jsonl"
        file.write_text(file.read_text().replace('"prompt": "Where?"', '"prompt": "Where then?"'))

        code = run(server, tmp_path)

    assert code == 3
    assert "1 answers are to problems that read differently by now, such as g0" in capsys.readouterr().err


def test_a_reader_judges_in_place_of_rules(tmp_path: Path) -> None:
    def judging(body: dict[str, Any]) -> str:
        return "false" if "True answer" in said(body) else right(body)

    with served(judging) as server:
        reader = ("--with", f"measure.reader.url={server.url}", "--limit", "2")
        assert run(server, tmp_path, *reader) == 0

    found = rows(tmp_path)
    assert [row["correct"] for row in found] == [False, False]
    assert [row["parts"]["accuracy_by_rule"] for row in found] == [1.0, 1.0]
    assert summary(tmp_path)["reader"] == server.url
