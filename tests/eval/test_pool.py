from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from eval.engines import ray_workers
from eval.engines.local import LocalWorker
from eval.engines.pool import EngineLost, Pool
from eval.generation import Answer, Inbox, Question
from eval.settings import Settings
from jobs.grpo.cluster import Cluster
from orchestrator.errors import InputError, RunFailed


def asked(count: int) -> list[Question]:
    return [Question(key=(f"p{k}", 0), text=str(k)) for k in range(count)]


def answer(question: Question, by: str = "") -> Answer:
    return Answer(key=question.key, text=f"{question.text}{by}", tokens=1, finish="stop", seconds=0.0)


class Scripted:
    """A worker in this process that answers one question at a time, and dies before its ``dies_at``th answer."""

    about: dict[str, Any] = {"device": "cpu"}  # noqa: RUF012 - a worker's interface

    def __init__(self, name: str, *, room: int = 2, each_s: float = 0.001, dies_at: int | None = None) -> None:
        self.name = name
        self.room = room
        self.most_held = 0
        self.answered: list[str] = []
        self.stopped = 0
        self._each_s = each_s
        self._dies_at = dies_at
        self._waiting: asyncio.Queue[Question] = asyncio.Queue()

    async def answers(self) -> AsyncIterator[Answer]:
        while True:
            question = await self._waiting.get()
            await asyncio.sleep(self._each_s)
            if len(self.answered) == self._dies_at:
                raise EngineLost(f"{self.name} died")
            self.answered.append(question.text)
            yield answer(question, f" by {self.name}")

    def feed(self, questions: Sequence[Question]) -> None:
        for question in questions:
            self._waiting.put_nowait(question)
        self.most_held = max(self.most_held, self._waiting.qsize())

    async def stop(self) -> None:
        self.stopped += 1
        self._waiting = asyncio.Queue()

    def close(self) -> None:
        self.stopped += 100


async def collect(pool: Pool, questions: Sequence[Question]) -> list[Answer]:
    async with aclosing(pool.answers(questions)) as found:
        return [one async for one in found]


def run(workers: list[Any], count: int, *, timeout_s: float = 5.0) -> tuple[list[Answer], list[tuple[str, int]]]:
    losses: list[tuple[str, int]] = []

    async def main() -> list[Answer]:
        pool = Pool(workers, timeout_s=timeout_s, lost=lambda error, back: losses.append((str(error), back)))
        return await collect(pool, asked(count))

    return asyncio.run(main()), losses


def test_every_question_is_answered_once_by_one_engine_or_another() -> None:
    first, second = Scripted("a"), Scripted("b")

    found, _ = run([first, second], 20)

    assert sorted(one.key for one in found) == sorted(question.key for question in asked(20))
    assert min(len(first.answered), len(second.answered)) > 0


def test_no_engine_holds_more_than_it_has_room_for() -> None:
    worker = Scripted("a", room=3)

    run([worker], 20)

    assert worker.most_held == 3


def test_the_faster_engine_answers_more() -> None:
    fast, slow = Scripted("fast"), Scripted("slow", each_s=0.05)

    run([fast, slow], 40)

    assert len(fast.answered) > 2 * len(slow.answered)


def test_near_the_end_no_engine_keeps_more_than_its_share() -> None:
    first, second = Scripted("a", room=100), Scripted("b", room=100)

    run([first, second], 10)

    assert (first.most_held, second.most_held) == (5, 5)


def test_what_a_dead_engine_was_given_goes_to_the_others() -> None:
    dying, living = Scripted("dying", dies_at=2, room=3), Scripted("living", each_s=0.01)

    found, losses = run([dying, living], 20)

    assert sorted(one.key for one in found) == sorted(question.key for question in asked(20))
    assert (len(dying.answered), len(living.answered)) == (2, 18)
    assert losses == [("dying died", 3)]


def test_when_the_last_engine_dies_so_does_the_evaluation() -> None:
    with pytest.raises(EngineLost, match="b died"):
        run([Scripted("a", dies_at=1), Scripted("b", dies_at=2, each_s=0.02)], 20)


def test_engines_that_say_nothing_are_given_up() -> None:
    with pytest.raises(RunFailed, match=r"no answer for 0\.1 s, with 4 to come"):
        run([Scripted("a", each_s=30)], 4, timeout_s=0.1)


def test_an_abandoned_round_leaves_nothing_to_the_next() -> None:
    worker = Scripted("a", room=10)

    async def main() -> list[str]:
        pool = Pool([worker], timeout_s=5.0, lost=lambda *_: None)
        async with aclosing(pool.answers(asked(10))) as found:
            async for _ in found:
                break
        return [one.key[0] for one in await collect(pool, asked(3))]

    assert asyncio.run(main()) == ["p0", "p1", "p2"]
    assert worker.stopped == 2


class Echo:
    """An engine that answers what it takes, so many at a time."""

    about: dict[str, Any] = {"device": "cpu"}  # noqa: RUF012 - an engine's interface

    def __init__(self, batch: int, *, each_s: float = 0.0, fails: bool = False) -> None:
        self.room = 2 * batch
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self._batch = batch
        self._each_s = each_s
        self._fails = fails

    def answer(self, inbox: Inbox, emit: Callable[[Answer], None]) -> None:
        self.threads.add(threading.get_ident())
        while batch := inbox.take(self._batch, wait=True):
            self.batches.append(len(batch))
            time.sleep(self._each_s)
            if self._fails:
                raise InputError("problem 'p0': as told.")
            for question in batch:
                emit(answer(question))


def test_an_engine_in_this_process_gets_whole_batches() -> None:
    engine = Echo(4, each_s=0.01)

    found, _ = run([LocalWorker(engine)], 18)

    assert [one.text for one in found] == [str(k) for k in range(18)]
    assert engine.batches == [4, 4, 4, 4, 2]
    assert threading.get_ident() not in engine.threads


def test_what_an_engine_raises_is_raised_where_answers_are_awaited() -> None:
    with pytest.raises(InputError, match="as told"):
        run([LocalWorker(Echo(4, fails=True))], 4)


def test_an_engine_answers_one_round_after_the_other() -> None:
    async def main() -> list[int]:
        pool = Pool([LocalWorker(Echo(4))], timeout_s=5.0, lost=lambda *_: None)
        return [len(await collect(pool, asked(count))) for count in (5, 3)]

    assert asyncio.run(main()) == [5, 3]


def count(*, hosts: int = 1, gpus: int = 0, models: int = 1, **values: Any) -> int:
    given = {"models": {"a": "m"}, "tasks": {"t": {"path": "t"}}, **values}
    nodes = Cluster(hosts=tuple(f"n{k}" for k in range(hosts)), rank=0, cpus=4, gpus_per_node=gpus)
    return ray_workers.count(Settings.model_validate(given), nodes, models)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, 0, id="a laptop needs no Ray"),
        pytest.param({"gpus": 1}, 0, id="nor does one GPU"),
        pytest.param({"gpus": 8}, 8, id="one for each GPU"),
        pytest.param({"hosts": 3, "gpus": 4}, 12, id="on all nodes"),
        pytest.param({"hosts": 2}, 2, id="one for each node without GPUs"),
        pytest.param({"gpus": 8, "engine": "vllm", "vllm": {"tensor_parallel": 4}}, 2, id="copies over several GPUs"),
        pytest.param({"engine": "vllm", "models": 2}, 1, id="vLLM frees memory only with its process"),
        pytest.param({"workers": 2}, 2, id="as many as wished for"),
        pytest.param({"gpus": 8, "workers": 0}, 0, id="none, where nobody wants Ray"),
    ],
)
def test_how_many_engines(given: dict[str, Any], expected: int) -> None:
    assert count(**given) == expected


def test_gpus_that_are_no_whole_copies_are_refused() -> None:
    with pytest.raises(InputError, match=r"tensor_parallel: 3 does not divide the 8 GPU"):
        count(gpus=8, engine="vllm", vllm={"tensor_parallel": 3})


def test_several_nodes_are_not_left_idle() -> None:
    with pytest.raises(InputError, match="workers: 0 uses one of the role's 2 nodes"):
        count(hosts=2, workers=0)
