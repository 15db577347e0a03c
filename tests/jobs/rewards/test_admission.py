"""The gate in front of the judge."""

from __future__ import annotations

import asyncio

import pytest

from jobs.rewards.admission import Admission


def test_the_limit_rises_by_one_per_answer_until_the_judge_is_full() -> None:
    gate = Admission(most=100, first=4)
    for _ in range(4):
        gate.answered()
    assert gate.limit == 8

    gate.full()
    assert gate.limit == 4

    for _ in range(4):
        gate.answered()
    assert gate.limit == pytest.approx(5, abs=0.15)


def test_many_signs_of_being_full_at_once_count_once() -> None:
    gate = Admission(most=100, first=64)
    for _ in range(10):
        gate.full()

    assert gate.limit == 32


def test_the_limit_stays_between_one_and_most() -> None:
    gate = Admission(most=2, first=32)
    gate.answered()
    assert gate.limit == 2

    gate.limit = 1.0
    gate.full()
    assert gate.limit == 1


def test_callers_are_let_in_in_their_order() -> None:
    async def main() -> list[int]:
        gate, order = Admission(most=1), []

        async def pass_through(number: int) -> None:
            async with gate:
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(pass_through(number) for number in range(5)))
        return order

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_a_spare_place_is_given_while_there_is_one_and_nobody_stands_in_line() -> None:
    async def main() -> list[bool]:
        gate = Admission(most=2)
        with gate.if_free() as alone, gate.if_free() as beside, gate.if_free() as beyond:
            waiting = asyncio.create_task(gate.__aenter__())
            await asyncio.sleep(0)
            gate.limit = 3.0
            with gate.if_free() as overtaking:
                found = [alone, beside, beyond, overtaking]
        await waiting
        return [*found, gate.running == 1]

    assert asyncio.run(main()) == [True, True, False, False, True]


def test_a_caller_cancelled_in_line_takes_no_place() -> None:
    async def main() -> int:
        gate = Admission(most=1)
        await gate.__aenter__()
        waiting = [asyncio.create_task(gate.__aenter__()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await gate.__aexit__(None, None, None)
        # Let in by the line above, and cancelled before it could run.
        waiting[1].cancel()
        await asyncio.wait_for(waiting[2], 1.0)
        return gate.running

    assert asyncio.run(main()) == 1


def test_it_says_how_many_were_inside_at_once_since_it_was_asked() -> None:
    async def counts() -> list[int]:
        gate = Admission(most=8)

        async def visit() -> None:
            async with gate:
                await asyncio.sleep(0)

        await asyncio.gather(*(visit() for _ in range(5)))
        return [gate.take_most(), gate.take_most()]

    assert asyncio.run(counts()) == [5, 0]
